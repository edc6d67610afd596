# SPDX-License-Identifier: Apache-2.0
"""A room in memory: the cell through which the newest head is read, with the newest events in their order.

Owns what is known of the room's being out of date. Keeping rooms, and bringing them up to date, is `cache.py`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Set

from twisted.internet.defer import Deferred

from homeserver.events import RoomEvent
from homeserver.rooms.engine.head import RoomHead
from homeserver.rooms.engine.news import Told

_NOBODY: Set[str] = frozenset()
RECENT_EVENTS = 64
"""Newest events kept per room, enough for a long-poll that comes back after a burst."""
MOST_MOVED = 1000
"""Users remembered of a room that is out of date; of more, everybody counts as one of them until it is read."""


class Room:
    """A room in memory."""

    __slots__ = (
        "_recent_weight",
        "beyond",
        "cleared",
        "doubted",
        "giving_way",
        "head",
        "moved",
        "read_at",
        "recent",
        "recent_floor",
        "rival_lost_at",
        "rival_wrote_at",
        "suspected",
        "told",
        "took",
        "unshown",
        "weight",
        "written_at",
    )

    def __init__(self, head: RoomHead) -> None:
        self.head = head
        self.read_at = head.position
        """Where it was when it was loaded as a whole."""
        self.recent: deque[RoomEvent] = deque()
        """`remember` adds to them."""
        self._recent_weight = 0
        self.recent_floor = head.position
        """Every event above this position that is shown to clients is in `recent`."""
        self.unshown = 0
        """Position of the newest event known to be for other servers only, which is not in `recent`."""
        self.beyond = 0
        """The newest event is known to be above this position."""
        self.moved: set[str] | None = None
        """Users whose membership, here or elsewhere, other processes wrote while the room was out of date: what the
        head says of them may be of before."""
        self.suspected = 0
        """How often it was thought that the head had moved, nobody knew where to."""
        self.cleared = 0
        """How many of these times a load has answered since."""
        self.doubted = 0
        """Of these times, the last when more than new events may have come: that takes loading it as a whole."""
        self.told: list[Told] = []
        """What other processes have told of their commits, in their order, until somebody asks for the room."""
        self.weight = 0
        self.written_at = self.rival_wrote_at = self.rival_lost_at = 0.0
        """When this process last wrote here while others did, when those did, and when one was too late; seconds of the
        monotonic clock, 0.0 for never."""
        self.took = 0.0
        """Seconds of the last commit here, while others write the room, too."""
        self.giving_way: Deferred[None] | None = None
        """Fires when another process has written."""

    def rival_wrote(self, now: float) -> None:
        """Another process wrote the room."""
        self.rival_wrote_at = now
        giving_way, self.giving_way = self.giving_way, None
        if giving_way is not None and not giving_way.called:
            giving_way.callback(None)

    @property
    def room_id(self) -> str:
        return self.head.room_id

    @property
    def key(self) -> int:
        return self.head.room

    @property
    def stale(self) -> bool:
        """Whether the head is known, or thought, to have moved elsewhere."""
        return self.head.position <= self.beyond or self.suspected != self.cleared

    @property
    def in_doubt(self) -> bool:
        """Whether it may have become anything, with anybody in it, for all that is known here."""
        return self.doubted > self.cleared

    def may_have(self, users: Set[str]) -> Set[str]:
        """Of those users the ones who may have come since what the head knows."""
        return users & self.moved if self.moved and self.stale else _NOBODY

    def written_after(self, before: int, moved: Collection[str]) -> None:
        """A commit after that position wrote the room, and the membership of those users."""
        if self.moved is not None and not self.stale:
            self.moved = None
        self.beyond = max(self.beyond, before)
        if moved and self.stale:
            if self.moved is None:
                self.moved = set()
            self.moved.update(moved)
            if len(self.moved) > MOST_MOVED:
                self.moved = None
                self.doubt()

    def doubt(self) -> None:
        """The room may have become anything."""
        self.suspected += 1
        self.doubted = self.suspected

    def recent_since(self, position: int) -> list[RoomEvent] | None:
        """Events above a position, oldest first; None if they are not all in memory."""
        if position < self.recent_floor:
            return None
        found: list[RoomEvent] = []
        for entry in reversed(self.recent):
            if entry.stored.position <= position:
                break
            found.append(entry)
        found.reverse()
        return found

    def advance(self, head: RoomHead, events: Iterable[RoomEvent]) -> None:
        """A commit of ours landed."""
        if head.head <= self.head.head:
            return
        if head.head != self.head.head + 1:
            self._forget_recent(head.position)
        else:
            self.remember(events)
        self._go_to(head)

    def follow(self, head: RoomHead, events: Iterable[RoomEvent]) -> None:
        """Another process wrote these on top of the head."""
        self._go_to(head)
        self.remember(events)

    def replace(self, head: RoomHead) -> None:
        """The room was loaded again."""
        if head.head > self.head.head:
            self._go_to(head)
            self.read_at = head.position
            self._forget_recent(head.position)

    def _go_to(self, head: RoomHead) -> None:
        self.head = head
        if self.told:  # of what the head has by now nobody makes any use
            self.told = [each for each in self.told if each.expected >= head.head]

    def remember(self, events: Iterable[RoomEvent]) -> None:
        """Events that go on from the most recent ones."""
        recent, weight = self.recent, self._recent_weight
        for entry in events:
            recent.append(entry)
            weight += entry.weight
        while len(recent) > RECENT_EVENTS:
            oldest = recent.popleft()
            weight -= oldest.weight
            self.recent_floor = oldest.stored.position
        self._recent_weight = weight

    def _forget_recent(self, floor: int) -> None:
        self.recent.clear()
        self._recent_weight = 0
        self.recent_floor = floor

    def measure(self) -> int:
        """About how many bytes of memory it takes."""
        told = sum(each.weight for each in self.told) if self.told else 0
        return self.head.weight + self._recent_weight + told
