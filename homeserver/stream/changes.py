# SPDX-License-Identifier: Apache-2.0
"""What moved lately: the newest position of each room and of each user's own data.

Lets a sync that has nothing to say find that out without a query. Bounded: what is forgotten raises the floor below
which "don't know" is answered, which callers treat as "it may have changed".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct, field

K = TypeVar("K")


class Change(Struct, frozen=True):
    """One commit as the rest of the process hears of it.

    `rooms` are room keys whose events moved; `users` those with something of their own that moved (account data,
    an invite, …); `wake` names further ones who may have news.
    `foreign` is set when another process wrote it, `unknown` when what it touched was not told, `whole` when the rooms
    did not simply go on from where they were. `lost` are rooms that the writer tried to write, too late. `news` says of
    some of the rooms, in the words of their writer, what was written there.
    `remote` are users of other servers whose membership another process wrote, `crowded` rooms where it was that of too
    many to name; those that this process writes `RoomCache.on_remote` tells.
    """

    before: int
    count: int
    rooms: Sequence[int] = ()
    users: Sequence[str] = ()
    wake: frozenset[str] = field(default_factory=frozenset)
    foreign: bool = False
    unknown: bool = False
    whole: bool = False
    lost: Sequence[int] = ()
    news: Mapping[int, Sequence[str]] = field(default_factory=dict)
    remote: Sequence[str] = ()
    crowded: Sequence[int] = ()

    @property
    def position(self) -> int:
        return self.before + self.count


class LatestPositions(Generic[K]):
    """The newest position per key, for the keys that moved since the floor.

    Kept in two generations, the older of which is dropped as a whole: that is how hundreds of keys are recorded without
    looking at each.
    """

    def __init__(self, floor: int, capacity: int = 100_000) -> None:
        """About `capacity` keys are remembered at most, and the last half of it always."""
        self._floor = floor
        self._half = capacity // 2
        self._recent: dict[K, int] = {}
        self._older: dict[K, int] = {}
        self._newest = floor
        """No key's position is greater."""

    def record(self, keys: Iterable[K], position: int) -> None:
        if position >= self._newest:
            self._newest = position
            self._recent.update(dict.fromkeys(keys, position))
        else:
            self._record_late(keys, position)
        if len(self._recent) > self._half:
            self._floor = max(self._floor, max(self._older.values(), default=self._floor))
            self._older, self._recent = self._recent, {}

    def _record_late(self, keys: Iterable[K], position: int) -> None:
        for key in keys:
            # What was forgotten of a key may be as new as the floor: news heard late must not hide that.
            if position > self._latest(key):
                self._recent[key] = position

    def _latest(self, key: K) -> int:
        position = self._recent.get(key)
        return self._older.get(key, self._floor) if position is None else position

    def may_have_changed(self, key: K, since: int) -> bool:
        """False only if nothing of `key` is newer than `since`."""
        return since < self._newest and self._latest(key) > since

    def forget_all(self, floor: int) -> None:
        """After a hole in what was heard: nothing at or below `floor` can be told any more.

        What is known above it stays: a commit of this process is known before those of others below it.
        """
        self._floor = max(self._floor, floor)
        known = {**self._older, **self._recent}
        self._older = {}
        self._recent = {key: position for key, position in known.items() if position > self._floor}
        self._newest = max(self._newest, floor)
