# SPDX-License-Identifier: Apache-2.0
"""What taking events in asks of a room: its version, who is in it, whom it shuts out. Owns the interfaces only."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence

from homeserver.needs import Protocol
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.server_acl import ServerAcl


class LiveRoom(Protocol):
    """The part of `homeserver.rooms.engine.RoomHead` that is read here."""

    @property
    def room_id(self) -> str: ...
    @property
    def version(self) -> RoomVersion: ...
    @property
    def depth(self) -> int: ...
    @property
    def extremities(self) -> Sequence[tuple[str, int]]: ...
    @property
    def server_acl(self) -> ServerAcl: ...

    def is_resident(self, server_name: str) -> bool: ...
    def other_hosts(self, own: str) -> Collection[str]: ...


class HeldRoom(Protocol):
    """A room as the cache holds it."""

    @property
    def head(self) -> LiveRoom: ...


class LiveRooms(Protocol):
    """Finds rooms at their newest."""

    async def get(self, room_id: str) -> HeldRoom | None: ...
    async def get_many(self, *, room_ids: Sequence[str]) -> Mapping[str, HeldRoom]: ...


class Arrivals(Protocol):
    """Knows of rooms that are being joined, or knocked on."""

    def under_way(self, room_id: str) -> Awaitable[object] | None:
        """Something to wait for until the join has ended, well or not; None if none is under way."""
        ...

    def version(self, room_id: str) -> RoomVersion | None:
        """The version of a room that is being joined, by what was said of it; None if that is not known."""
        ...
