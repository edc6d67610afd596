# SPDX-License-Identifier: Apache-2.0
"""A partly known state made whole, and with it every state that was built on it. Pure.

Snapshots are deltas, so the whole state goes into the first one's checkpoint and is there in all that follow. Two
things must be mended by hand: checkpoints since then, and where a change replaced what was not known to be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field
from pyroaring import BitMap

from homeserver.rooms.engine.head import StateKey
from storage.partial_rooms import Delta


class Mended(Struct):
    """What changes in the stored snapshots."""

    checkpoints: dict[int, BitMap] = field(default_factory=dict)
    removals: dict[int, list[int]] = field(default_factory=dict)


class Overlay:
    """The snapshots of a room from the one that was known in part."""

    def __init__(
        self,
        deltas: Sequence[Delta],
        first: int,
        whole: Mapping[StateKey, int],
        keys: Mapping[int, StateKey],
    ) -> None:
        """`deltas` in the order they were made, `first` among them; `whole` is its state as it is known now; `keys`
        says what each ordinal in any of them stands for.
        """
        self._rows = {row.snapshot: row for row in deltas}
        self._first = first
        self._whole = whole
        self._keys = keys
        known = self._rows[first].checkpoint
        self._known = BitMap() if known is None else BitMap.deserialize(known)
        self._descendants = _descendants(deltas, first)
        self.missing = {key: ordinal for key, ordinal in whole.items() if ordinal not in self._known}
        """What was not known of the first state."""
        self.wrong = self._known - BitMap(whole.values())
        """What was thought to be in it and is not."""
        self._lookups: dict[int, dict[StateKey, int]] = {}
        self._mended: Mended | None = None

    def mended(self) -> Mended:
        """What has to be written."""
        if self._mended is not None:
            return self._mended
        mended = self._mended = Mended()
        for snapshot in self._descendants:
            row = self._rows[snapshot]
            if snapshot == self._first:
                mended.checkpoints[snapshot] = BitMap(self._whole.values())
                continue
            if row.checkpoint is not None:
                mended.checkpoints[snapshot] = self._mended_checkpoint(BitMap.deserialize(row.checkpoint))
            gone = self._replaced_unknowingly(row)
            if gone:
                mended.removals[snapshot] = gone
        return mended

    def _mended_checkpoint(self, bitmap: BitMap) -> BitMap:
        bitmap = bitmap - self.wrong
        held = self._held(bitmap - self._known)
        return bitmap | BitMap(o for key, o in self.missing.items() if key not in held)

    def _replaced_unknowingly(self, row: Delta) -> list[int]:
        replaced = (
            self.missing.get(self._keys[o]) for o in row.added if o in self._keys and o not in self._known
        )
        return [o for o in replaced if o is not None and o not in row.added and o not in row.removed]

    def _held(self, ordinals: Iterable[int]) -> set[StateKey]:
        return {self._keys[ordinal] for ordinal in ordinals if ordinal in self._keys}

    def state(self, snapshot: int) -> BitMap | None:
        """A state as it is now known; None for one that does not follow from the first."""
        if snapshot not in self._descendants:
            return None
        mended = self.mended()
        chain = []
        at: int | None = snapshot
        while at is not None and at not in mended.checkpoints:
            chain.append(self._rows[at])
            at = self._rows[at].parent
        bitmap = BitMap() if at is None else mended.checkpoints[at].copy()
        for row in reversed(chain):
            bitmap -= BitMap([*row.removed, *mended.removals.get(row.snapshot, ())])
            bitmap |= BitMap(row.added)
        return bitmap

    def at(self, snapshot: int, key: StateKey) -> int | None:
        """A piece of a state as it is now known; None also for a state that does not follow from the first."""
        walked: int | None = snapshot
        while walked is not None and walked in self._descendants:
            if walked == self._first:
                return self._whole.get(key)
            row = self._rows[walked]
            added = self._by_key(row)
            if key in added:
                return added[key]
            walked = row.parent
        return None

    def follows(self, snapshot: int | None) -> bool:
        """Whether a state was built on the first."""
        return snapshot in self._descendants

    def _by_key(self, row: Delta) -> dict[StateKey, int]:
        found = self._lookups.get(row.snapshot)
        if found is None:
            found = {self._keys[ordinal]: ordinal for ordinal in row.added if ordinal in self._keys}
            self._lookups[row.snapshot] = found
        return found


def _descendants(deltas: Sequence[Delta], first: int) -> dict[int, None]:
    found = {first: None}
    for row in deltas:
        if row.parent is not None and row.parent in found:
            found[row.snapshot] = None
    return found
