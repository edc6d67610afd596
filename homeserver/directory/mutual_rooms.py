# SPDX-License-Identifier: Apache-2.0
"""The rooms two users are both in (client-server API, "Mutual Rooms", MSC2666)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from homeserver.errors import InvalidParam
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import check_compliant_user_id
from homeserver.rooms.user_rooms import UserRooms

PAGE = 500


class MutualRoomsPage(Struct, frozen=True):
    """Room ids, how many there are in all, and the token of the next page."""

    joined: Sequence[str]
    count: int
    next_batch: str | None


class MutualRooms:
    """One per process."""

    def __init__(self, user_rooms: UserRooms) -> None:
        self._user_rooms = user_rooms

    async def of(self, user_id: str, other: str, token: str | None = None) -> MutualRoomsPage:
        """The rooms both are joined to; none for a user that does not exist.

        `token` is the key of the last room shown: good for ever, since rooms come in the order of their keys.
        Raises InvalidParam for oneself, an id that is none, and a token that is none.
        """
        try:
            check_compliant_user_id(other)
        except IdentifierError as error:
            raise InvalidParam(str(error)) from error
        if other == user_id:
            raise InvalidParam("user_id is your own")
        if token is not None and not (token.isascii() and token.isdigit() and len(token) < 19):
            raise InvalidParam("The token is not one of this server's")
        theirs = {standing.room for standing in await self._user_rooms.joined(other)}
        mutual = sorted(s[:2] for s in await self._user_rooms.joined(user_id) if s.room in theirs)
        after = [entry for entry in mutual if token is None or entry[0] > int(token)]
        page = after[:PAGE]
        next_batch = str(page[-1][0]) if len(after) > PAGE else None
        return MutualRoomsPage([room_id for _, room_id in page], len(mutual), next_batch)
