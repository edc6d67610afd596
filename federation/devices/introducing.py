# SPDX-License-Identifier: Apache-2.0
"""Noticing that a user of ours and another server meet for the first time, and introducing the user's devices to it.

Server-server API, "Device Management": updates are sent "when that user joins a room which contains servers which are
not already receiving updates for that user's device list"; so, too, when such a server joins. Owns who is a stranger to
whom. What happens in rooms where all are of this server costs a look into memory.

The process in which the join was committed does it, from memory. If it ends in between nobody is introduced: a server
that does not know a user's devices asks for them when it needs them, and of later changes it is told.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred

from federation.outbound.routing import MEMBER, joined_by
from homeserver.needs import Protocol
from homeserver.rooms.engine import Room
from homeserver.rooms.engine.head import host_of
from homeserver.stream.changes import Change

logger = logging.getLogger(__name__)

MOST_WAITING: Final = 10_000
"""Meetings that wait to be looked at; what is beyond is left out."""
MOST_INTRODUCED: Final = 1000
"""Users of ours in a room who are introduced to a server that joins it."""


class Rooms(Protocol):
    """Rooms in memory (`homeserver.rooms.engine.RoomCache`)."""

    def peek_key(self, key: int) -> Room | None: ...


class Neighbours(Protocol):
    """`homeserver.rooms.neighbours.Neighbours`."""

    async def met_in(self, user_id: str, room: int) -> set[str]: ...
    async def strangers_in(self, room: int, server_name: str, limit: int) -> list[str]: ...


class Announcer(Protocol):
    """`federation.devices.announcing.DeviceAnnouncer`."""

    async def introduce(self, user_ids: Collection[str], servers: Collection[str]) -> None: ...


class _Meeting(NamedTuple):
    room: int
    user_id: str
    """Of ours, who joined; empty if the server did."""
    server: str


class Introductions:
    """One per process; subscribes to the stream, after the rooms' cache."""

    def __init__(
        self, *, server_name: str, rooms: Rooms, neighbours: Neighbours, announcer: Announcer
    ) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._neighbours = neighbours
        self._announcer = announcer
        self._waiting: deque[_Meeting] = deque()
        self._working: Deferred[None] | None = None
        self._stopped = False

    def changed(self, change: Change) -> Iterable[str]:
        """A commit."""
        if not change.foreign:
            for key in change.rooms:
                room = self._rooms.peek_key(key)
                if room is not None and room.head.has_other_hosts(self._server_name):
                    self._look(room, change.before)
        return ()

    def entered(self, user_id: str, room: int) -> None:
        """A user of ours came into a room through another server, of which the stream does not tell like this."""
        self._put(_Meeting(room, user_id, ""))

    async def stop(self) -> None:
        """Introduce nobody more."""
        self._stopped = True
        self._waiting.clear()
        if self._working is not None:
            await self._working

    def _look(self, room: Room, since: int) -> None:
        joined: dict[str, int] = {}
        for entry in room.recent_since(since) or ():
            user_id = entry.stored.state_key
            if entry.stored.type != MEMBER or user_id is None or joined_by(entry) <= 0:
                continue
            server = host_of(user_id)
            if server == self._server_name:
                self._put(_Meeting(room.key, user_id, ""))
            else:
                joined[server] = joined.get(server, 0) + 1
        for server, users in joined.items():
            if room.head.hosts.get(server, 0) <= users:  # none of its users was there before
                self._put(_Meeting(room.key, "", server))

    def _put(self, meeting: _Meeting) -> None:
        if self._stopped or len(self._waiting) >= MOST_WAITING:
            return
        self._waiting.append(meeting)
        if self._working is None:
            working = Deferred.fromCoroutine(self._work())
            if not working.called:
                self._working = working

    async def _work(self) -> None:
        try:
            while self._waiting:
                meeting = self._waiting.popleft()
                try:
                    await self._introduce(meeting)
                except Exception:
                    logger.warning("users could not be introduced to other servers", exc_info=True)
        finally:
            self._working = None

    async def _introduce(self, meeting: _Meeting) -> None:
        users: Collection[str]
        servers: Collection[str]
        if meeting.user_id:
            users, servers = (meeting.user_id,), await self._neighbours.met_in(meeting.user_id, meeting.room)
        else:
            servers = (meeting.server,)
            users = await self._neighbours.strangers_in(meeting.room, meeting.server, MOST_INTRODUCED)
        if users and servers:
            await self._announcer.introduce(users, servers)
