# SPDX-License-Identifier: Apache-2.0
"""Rooms of many members, made through the server's API by everybody in them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote

import psycopg2

from scripts.benchmarks.client import Client
from scripts.benchmarks.scenarios.sending import TEXT
from scripts.benchmarks.servers import DATABASE, Lares
from scripts.benchmarks.world import each

SPEAKERS: Final = 20
"""Members who say everything that is said, in every room alike."""
AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Place:
    """A room, and those of its members who do something. Nobody is in two of them."""

    room_id: str
    speakers: Sequence[Client]

    @property
    def path(self) -> str:
        """The room's in the API."""
        return f"/_matrix/client/v3/rooms/{quote(self.room_id)}"


class Builder:
    """Makes users and rooms on one server."""

    def __init__(self, server: Lares) -> None:
        self._server = server
        self._numbers = itertools.count()

    def number(self) -> int:
        """A number never given before."""
        return next(self._numbers)

    async def people(self, count: int) -> list[Client]:
        """New users, logged in.

        They come as guests and are made users by a word in the database: so ten thousand passwords are not hashed, and
        all else is what the server does with whoever registers.
        """
        people = await each([self._guest] * count, at_once=AT_ONCE)
        connection = psycopg2.connect(self._server.cluster.url(DATABASE))
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("UPDATE users SET guest = false WHERE guest")
        finally:
            connection.close()
        return people

    async def _guest(self) -> Client:
        connection = Client("127.0.0.1", self._server.port)
        answer = await connection.call_json("POST", "/_matrix/client/v3/register?kind=guest", {})
        connection.close()
        return connection.logged_in(answer)

    async def place(self, members: int, events: int) -> Place:
        """A public room of so many members and, with what they said and the few that made it, so many events."""
        creator, *others = await self.people(members)
        room_id = await creator.create_room(preset="public_chat", name=f"A room of {members:,}")
        await each([partial(_join, other, room_id) for other in others], at_once=AT_ONCE)
        speakers = [creator, *others][: min(SPEAKERS, members)]
        shares = [range(first, events - members, len(speakers)) for first in range(len(speakers))]
        await each(
            [
                partial(self._say, speaker, room_id, len(share))
                for speaker, share in zip(speakers, shares, strict=True)
            ],
            at_once=SPEAKERS,
        )
        return Place(room_id, speakers)

    async def _say(self, speaker: Client, room_id: str, times: int) -> None:
        for _ in range(times):
            await speaker.send(room_id, f"t{self.number()}", TEXT)


async def _join(client: Client, room_id: str) -> None:
    await client.join(room_id)
    client.close()
