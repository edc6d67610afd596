# SPDX-License-Identifier: Apache-2.0
"""How far the stream may be shown here.

Commits of several processes are serialised by the database, yet news of them reaches this process out of order:
its own at once, the others' by notification. The position shown only moves over ranges without a hole below them.
Pure bookkeeping; no I/O.
"""

from __future__ import annotations


class Positions:
    """The greatest position at or below which everything is known here."""

    __slots__ = ("_ahead", "current", "newest")

    def __init__(self, current: int) -> None:
        self.current = current
        self.newest = current
        """The greatest position that is known here, be there a hole below it."""
        self._ahead: dict[int, int] = {}

    def learn(self, before: int, count: int) -> bool:
        """Take note that positions before+1 … before+count are committed and known; True if `current` moved."""
        self.newest = max(self.newest, before + count)
        if before > self.current:
            self._ahead[before] = max(count, self._ahead.get(before, 0))
            return False
        if before + count <= self.current:
            return False
        self.current = before + count
        while self._ahead:
            following = self._ahead.pop(self.current, None)
            if following is None:
                break
            self.current += following
        return True

    def jump(self, position: int) -> None:
        """Everything at or below `position` is known: after a gap in the notifications was read up."""
        self.current = max(self.current, position)
        self.newest = max(self.newest, position)
        for before in [b for b in self._ahead if b < self.current]:
            count = self._ahead.pop(before)
            self.current = max(self.current, before + count)
        following = self._ahead.pop(self.current, None)
        while following is not None:
            self.current += following
            following = self._ahead.pop(self.current, None)

    @property
    def waiting(self) -> int:
        """Ranges known that lie beyond a hole."""
        return len(self._ahead)
