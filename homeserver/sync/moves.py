# SPDX-License-Identifier: Apache-2.0
"""Which rooms moved lately, commit by commit.

Turns the question of a listener around: not "has this room moved?" for each of a hundred rooms, but "which have?",
which is one for nearly all who followed along, and the same answer for everybody who comes with the same token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from homeserver.stream.changes import Change

MOST_ROOMS: Final = 4_000
"""Rooms in the commits that are remembered, those that moved twice counted twice."""
_MOST_ANSWERS: Final = 256


class RoomMoves:
    """One per process; subscribes to the stream."""

    def __init__(self, position: int) -> None:
        """`position`: where the stream stands."""
        self._floor = position
        self._commits: deque[tuple[int, Sequence[int]]] = deque()
        """By position, oldest first."""
        self._size = 0
        self._answers: dict[int, tuple[int, ...]] = {}

    def since(self, position: int) -> tuple[int, ...] | None:
        """The rooms in which something may have happened after a position; None: that is not remembered."""
        known = self._answers.get(position)
        if known is not None:
            return known
        if position < self._floor:
            return None
        rooms: dict[int, None] = {}
        for at, moved in reversed(self._commits):
            if at <= position:
                break
            rooms.update(dict.fromkeys(moved))
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.clear()
        found = self._answers[position] = tuple(rooms)
        return found

    def changed(self, change: Change) -> Iterable[str]:
        """A commit."""
        self._answers.clear()
        if change.unknown:
            self._floor = max(self._floor, change.position)
            # What was told already of commits above the hole is not told again.
            self._commits = deque(each for each in self._commits if each[0] > self._floor)
            self._size = sum(len(rooms) for _, rooms in self._commits)
        elif change.rooms and change.position > self._floor:
            self._remember(change.position, change.rooms)
        return ()

    def _remember(self, position: int, rooms: Sequence[int]) -> None:
        commits = self._commits
        at = len(commits)  # what another process wrote may be heard of after ours of a later position
        while at and commits[at - 1][0] > position:
            at -= 1
        commits.insert(at, (position, rooms))
        self._size += len(rooms)
        while self._size > MOST_ROOMS:
            oldest, moved = commits.popleft()
            self._floor = oldest
            self._size -= len(moved)
