# SPDX-License-Identifier: Apache-2.0
"""State snapshots: what is written when a room's state changes, and how it is read back. Pure.

A snapshot is a delta on its parent. A checkpoint, the whole state as a bitmap of ordinals, is written only when the
delta entries since the last one outnumber the state itself: so a change writes one row of at most two entries, plus
its share of a checkpoint, which is at most one entry; and reading any snapshot touches at most twice its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from pyroaring import BitMap

from storage.state import SnapshotDelta


def checkpoint_due(weight: int, size: int) -> bool:
    """Whether a snapshot that brings the delta entries since the last checkpoint to `weight` must be one."""
    return weight > max(size, 1)


def checkpoint_of(ordinals: Iterable[int]) -> bytes:
    """The whole state as bytes."""
    bitmap = BitMap(ordinals)
    bitmap.run_optimize()
    return bytes(bitmap.serialize())


def state_at(chain: Sequence[SnapshotDelta]) -> BitMap:
    """The ordinals of a snapshot's state from its chain, newest first, back to a checkpoint or the beginning."""
    bitmap = BitMap()
    for row in reversed(chain):
        if row.checkpoint is not None:
            bitmap = BitMap.deserialize(row.checkpoint)
        else:
            bitmap -= BitMap(row.removed)
            bitmap |= BitMap(row.added)
    return bitmap


class State(Struct, frozen=True):
    """A state of a room in memory. The bitmap belongs to the state and is not to be changed."""

    snapshot: int
    ordinals: BitMap
    weight: int
    """Delta entries since the last checkpoint."""

    @classmethod
    def of_chain(cls, snapshot: int, chain: Sequence[SnapshotDelta]) -> State:
        """The state that a chain makes, newest step first."""
        weight = 0
        for row in chain:
            if row.checkpoint is not None:
                break
            weight += len(row.added) + len(row.removed)
        return cls(snapshot, state_at(chain), weight)


NOTHING = State(0, BitMap(), 0)
"""The state before a room's first event."""
