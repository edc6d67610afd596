# SPDX-License-Identifier: Apache-2.0
"""How far this process is with offering events to the servers that it serves. Told by the feed, asked by the sender."""

from __future__ import annotations

from msgspec import Struct, field


class Progress(Struct):
    """One per process."""

    taken: int
    """Every event at or below was offered, or is being offered."""
    ahead: dict[int, int] = field(default_factory=dict)
    """Shards that were taken over from a process that was further, and how far that one was."""

    def of(self, shard: int) -> int:
        """Up to where the servers of a shard were offered everything, by whichever process."""
        return max(self.taken, self.ahead.get(shard, 0))
