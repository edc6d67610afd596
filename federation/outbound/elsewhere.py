# SPDX-License-Identifier: Apache-2.0
"""What services of this server say of its users, made into ephemeral units for the other servers it concerns.

Implements what `homeserver.typing`, `homeserver.receipts` and `homeserver.presence` declare. All of it is fleeting: a
server that is away hears what is so when it is back.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from federation.outbound.outbox import OutgoingEdu
from homeserver.needs import Protocol
from homeserver.rooms.engine import Room
from storage.receipts import Receipt

logger = logging.getLogger(__name__)

REPEAT_TYPING = 30_000
"""Milliseconds after which servers are told again of somebody who goes on typing; they forget after about a minute."""
TYPISTS_REMEMBERED = 10_000
MOST_PEOPLE_WAITING = 10_000
"""Users whose presence waits to be told; of more, the oldest news are dropped."""


class Servers(Protocol):
    """What is needed of `homeserver.rooms.neighbours.Neighbours`."""

    async def servers_of(self, user_id: str) -> set[str]: ...
    def servers_in_memory(self, room: int) -> Collection[str] | None: ...


class Posting(Protocol):
    """What is needed of the outbox."""

    def pass_on(self, edus: Sequence[OutgoingEdu]) -> None: ...


class Elsewhere:
    """One per process."""

    def __init__(
        self,
        *,
        outbox: Posting,
        neighbours: Servers,
        pause: Callable[[], Awaitable[object]],
        now: Callable[[], int],
    ) -> None:
        """`pause` leaves the reactor to others; `now` gives the time in milliseconds."""
        self._outbox = outbox
        self._neighbours = neighbours
        self._pause = pause
        self._now = now
        self._typing_told: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._people: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._telling: Deferred[None] | None = None

    # Typing.

    def typing(self, room: Room, user_id: str, *, typing: bool) -> None:
        """A user of this server types, goes on, or stopped."""
        place = (room.key, user_id)
        now = self._now()
        if typing:
            if now - self._typing_told.get(place, 0) < REPEAT_TYPING:
                return
            self._typing_told[place] = now
            self._typing_told.move_to_end(place)
            if len(self._typing_told) > TYPISTS_REMEMBERED:
                self._typing_told.popitem(last=False)
        else:
            self._typing_told.pop(place, None)
        content = {"room_id": room.room_id, "user_id": user_id, "typing": typing}
        self._to_room(room, "m.typing", content, f"{room.key} {user_id}")

    # Receipts.

    def receipts(self, room: Room, receipts: Sequence[Receipt]) -> None:
        """Public receipts of users of this server."""
        for receipt in receipts:
            data: dict[str, Any] = {"ts": receipt.ts}
            if receipt.thread:
                data["thread_id"] = receipt.thread
            told = {"event_ids": [receipt.event_id], "data": data}
            content = {room.room_id: {"m.read": {receipt.user_id: told}}}
            self._to_room(room, "m.receipt", content, f"{room.key} {receipt.user_id} {receipt.thread}")

    def _to_room(self, room: Room, edu_type: str, content: Mapping[str, Any], key: str) -> None:
        servers = self._neighbours.servers_in_memory(room.key)
        if servers:
            self._outbox.pass_on([OutgoingEdu(server, edu_type, content, key) for server in servers])

    # Presence.

    def presence(self, people: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """How users of this server are. Told to the servers they share rooms with, one user after another."""
        for user_id, content in people:
            self._people[user_id] = content
            self._people.move_to_end(user_id)
            if len(self._people) > MOST_PEOPLE_WAITING:
                self._people.popitem(last=False)
        if self._people and self._telling is None:
            self._telling = Deferred.fromCoroutine(self._tell())
            self._telling.addBoth(self._told)

    def _told(self, _result: object) -> None:
        self._telling = None

    async def _tell(self) -> None:
        while self._people:
            await self._pause()
            if not self._people:
                return
            user_id, content = self._people.popitem(last=False)
            try:
                servers = await self._neighbours.servers_of(user_id)
            except Exception:
                logger.warning("presence could not be told to other servers", exc_info=True)
                continue
            unit = {"push": [_update(user_id, content)]}
            self._outbox.pass_on([OutgoingEdu(server, "m.presence", unit, user_id) for server in servers])

    async def stop(self) -> None:
        """Tell nothing more."""
        self._people.clear()
        if self._telling is not None:
            await self._telling


def _update(user_id: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A user's update, of the content clients get."""
    names = ("presence", "status_msg", "currently_active")
    told = {name: content[name] for name in names if name in content}
    return {"user_id": user_id, "last_active_ago": content.get("last_active_ago", 0), **told}
