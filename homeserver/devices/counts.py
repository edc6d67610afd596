# SPDX-License-Identifier: Apache-2.0
"""How many one-time keys each device has left, as its client is told with every sync.

Owns the memory of it: every response carries the counts, so they are read once and then only after they moved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

from homeserver.devices.news import DeviceNews
from homeserver.devices.writing import Committer
from homeserver.needs import Protocol
from homeserver.stream import Apart
from storage.one_time_keys import ClaimedKeys
from storage.one_time_keys import KeyCounts as Counts

CAPACITY = 50_000
"""Devices remembered, unless told otherwise: a few hundred bytes each."""


class Store(Protocol):
    async def counts(self, user_id: str, device_id: str) -> Counts: ...

    async def claim(self, origin: str, wanted: Mapping[str, Mapping[str, str]]) -> ClaimedKeys: ...


class KeyCounts:
    """One per process."""

    def __init__(
        self,
        *,
        origin: str,
        store: Store,
        news: DeviceNews,
        committer: Committer,
        position: Callable[[], int],
        capacity: int = CAPACITY,
    ) -> None:
        """`position` tells how far the stream may be shown."""
        self._origin = origin
        self._store = store
        self._news = news
        self._committer = committer
        self._position = position
        self._capacity = capacity
        # Device → its counts, and the position the stream had at least reached when they were read.
        self._known: OrderedDict[tuple[str, str], tuple[Counts, int]] = OrderedDict()

    @property
    def size(self) -> int:
        """Devices that are remembered."""
        return len(self._known)

    async def of(self, user_id: str, device_id: str) -> Counts:
        """What the device has left, at least as of the stream's position. No query unless it moved."""
        known = self.known(user_id, device_id)
        if known is not None:
            return known
        key = (user_id, device_id)
        position = self._position()
        counts = await self._store.counts(user_id, device_id)
        self._known[key] = (counts, position)
        self._known.move_to_end(key)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return counts

    def known(self, user_id: str, device_id: str) -> Counts | None:
        """The same as `of`; None if memory does not tell."""
        key = (user_id, device_id)
        known = self._known.get(key)
        if known is None or self._news.counts.may_have_changed(key, known[1]):
            return None
        self._known.move_to_end(key)
        return known[0]

    def may_have_moved(self, user_id: str, device_id: str, since: int) -> bool:
        """False only if they did not move after the position."""
        return self._news.counts.may_have_changed((user_id, device_id), since)

    async def moved(self, devices: Sequence[tuple[str, str]]) -> None:
        """Keys of those devices, each named once, were added or given out: have their clients told."""
        if not devices:
            return

        def landed(before: int) -> Iterable[str]:
            return self._news.counts_landed(devices, before + 1)

        await self._committer.write(
            "key_counts", [{"origin": self._origin, "devices": devices}], landed=landed
        )

    async def claim(self, wanted: Mapping[str, Mapping[str, str]]) -> str | None:
        """Give out keys (user → device → algorithm) and have the clients told whose they are; see the store.

        A JSON object of what was given: user → device → key; None if nothing was.
        """
        claimed = await self._committer.apart(lambda: self._claim(wanted))
        return claimed.keys

    async def _claim(self, wanted: Mapping[str, Mapping[str, str]]) -> Apart[ClaimedKeys]:
        claimed = await self._store.claim(self._origin, wanted)
        if not claimed.moved:
            return Apart(claimed)
        wake = self._news.counts_landed(claimed.moved, claimed.before + 1)
        return Apart(claimed, claimed.before, 1, wake)
