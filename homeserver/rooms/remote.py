# SPDX-License-Identifier: Apache-2.0
"""What the room services ask of rooms on other servers, and the answer of a server that talks to none.

Owns the interface only; `federation.membership` does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from msgspec import Struct

from homeserver.errors import NotFound, Unknown
from homeserver.needs import Protocol
from homeserver.rooms.engine import Plan
from homeserver.rooms.refusals import not_joined, unknown_room


class FoundRoom(Struct, frozen=True):
    """Where an alias leads."""

    room_id: str
    servers: Sequence[str]
    """Servers that may be in the room, the likeliest first."""


class RemoteRooms(Protocol):
    """Membership by way of other servers.

    `servers` are those that may be in the room, the likeliest first; this server among them does no harm. `content` is
    that of the member event, with its membership. All raise RemoteServerFailed when nobody who could help is reached.
    """

    async def join(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str | None:
        """Join a user; the id of the join, by which the room is live here. None: it became live meanwhile by somebody
        else's joining, and the user joins as one does a room of this server.

        Raises Forbidden, NotFound, IncompatibleRoomVersion, UnableToAuthoriseJoin, UnableToGrantJoin.
        """
        ...

    async def knock(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str:
        """Knock for a user, on a room this server is not in; the id of the knock. Raises as `join`."""
        ...

    async def leave(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str | None:
        """Reject an invite or withdraw a knock, in a room this server is not in; the id of the leave.

        It is done here even if no other server can be told. None if there is nothing to end.
        """
        ...

    async def invite(self, room_id: str, user_id: str, plan: Plan, *, users: Sequence[str]) -> str:
        """Invite a user of another server by the one draft of `plan` (as `RoomEngine.write` takes it); the event's id.

        Raises what the plan raises, Forbidden, InviteBlocked, IncompatibleRoomVersion.
        """
        ...

    def check_reachable(self, user_id: str) -> None:
        """Raise Unknown if users of other servers cannot be invited at all."""
        ...

    async def resolve_alias(self, alias: str) -> FoundRoom:
        """Ask the server of an alias. Raises NotFound."""
        ...


class NoRemoteRooms:
    """For a server that does not federate."""

    async def join(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> NoReturn:
        """There is no way to the room."""
        raise unknown_room(room_id)

    async def knock(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> NoReturn:
        """There is no way to the room."""
        raise unknown_room(room_id)

    async def leave(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> NoReturn:
        """There is nothing to leave."""
        raise not_joined(user_id, room_id)

    async def invite(self, room_id: str, user_id: str, plan: Plan, *, users: Sequence[str]) -> NoReturn:
        """There is no way to the user."""
        self.check_reachable(user_id)

    def check_reachable(self, user_id: str) -> NoReturn:
        """Nobody is."""
        raise Unknown(f"Cannot invite {user_id}: their server cannot be reached from here")

    async def resolve_alias(self, alias: str) -> NoReturn:
        """Nobody is asked."""
        raise NotFound(f"Room alias {alias} not found.")
