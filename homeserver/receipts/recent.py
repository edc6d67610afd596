# SPDX-License-Identifier: Apache-2.0
"""The newest receipts of every room where receipts moved lately, those of other processes included.

Lets a live receipt reach its readers, and a sync without news of receipts be answered, without a query. Bounded: of
what was forgotten only the position below which nothing is known is kept.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable

from homeserver.stream.changes import Change
from storage.receipts import Receipt, heard

PER_ROOM = 256
CAPACITY = 200_000
"""Receipts kept altogether: a few hundred bytes each."""


class _Room:
    """Holds every receipt of a room with a position above `floor`, in order."""

    __slots__ = ("floor", "receipts")

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.receipts: deque[Receipt] = deque()

    @property
    def newest(self) -> int:
        return self.receipts[-1].position if self.receipts else self.floor

    def add(self, receipt: Receipt) -> bool:
        receipts = self.receipts
        if receipt.position <= self.floor:
            return False
        at = len(receipts)  # another process' news may come after ours of a later position
        while at and receipts[at - 1].position > receipt.position:
            at -= 1
        if at and receipts[at - 1].position == receipt.position:
            return False
        receipts.insert(at, receipt)
        if at + 1 < len(receipts):
            self._drop_refused(receipt)
        return True

    def _drop_refused(self, earlier: Receipt) -> None:
        """What the database was asked for later without getting further than the earlier one was not written."""

        def refused(later: Receipt) -> bool:
            return (
                later.position > earlier.position
                and later.place <= earlier.place
                and later.user_id == earlier.user_id
                and later.private == earlier.private
                and later.thread == earlier.thread
            )

        self.receipts = deque(receipt for receipt in self.receipts if not refused(receipt))


class RecentReceipts:
    """One per process; subscribes to the stream and hears the channel `receipts`."""

    def __init__(
        self, position: int, readers: Callable[[int], Iterable[str]], *, capacity: int = CAPACITY
    ) -> None:
        """`position`: where the stream stands now. `readers` gives, of the users who wait, those joined to a room."""
        self._floor = position
        self._readers = readers
        self._rooms: OrderedDict[int, _Room] = OrderedDict()
        self._capacity = capacity
        self._size = 0
        self._untold: list[Receipt] = []
        """Heard of before the commit they came with."""
        self.latest = position
        """No receipt of a greater position is known, or was forgotten."""

    @property
    def size(self) -> int:
        """Receipts that are kept."""
        return self._size

    def add(self, receipt: Receipt) -> bool:
        """A receipt that stands; False if it was known, or is too old to be remembered."""
        room = self._rooms.get(receipt.room)
        if room is None:
            if receipt.position <= self._floor:
                return False
            room = self._rooms[receipt.room] = _Room(self._floor)
        before = len(room.receipts)
        if not room.add(receipt):
            return False
        self._size += len(room.receipts) - before
        self.latest = max(self.latest, receipt.position)
        if len(room.receipts) > PER_ROOM:
            room.floor = room.receipts.popleft().position
            self._size -= 1
        self._place(receipt.room, room.newest)
        while self._size > self._capacity:
            _, oldest = self._rooms.popitem(last=False)
            self._size -= len(oldest.receipts)
            self._floor = max(self._floor, oldest.newest)
        return True

    def _place(self, key: int, newest: int) -> None:
        """Keep rooms in the order of their newest receipts; only races between processes find work here."""
        rooms = self._rooms
        rooms.move_to_end(key)
        later = []
        for other in reversed(rooms):
            if other == key:
                continue
            if rooms[other].newest <= newest:
                break
            later.append(other)
        for other in reversed(later):
            rooms.move_to_end(other)

    def newest(self, receipt: Receipt) -> Receipt | None:
        """The newest receipt remembered of the same user, room, kind and thread."""
        room = self._rooms.get(receipt.room)
        key = receipt.user_id, receipt.private, receipt.thread
        for known in reversed(room.receipts) if room is not None else ():
            if (known.user_id, known.private, known.thread) == key:
                return known
        return None

    def since(
        self, rooms: Collection[int], since: int, upto: int
    ) -> tuple[dict[int, list[Receipt]], list[int]]:
        """By room, the receipts in since < position ≤ upto, oldest first; and the rooms of which that isn't known."""
        found: dict[int, list[Receipt]] = {}
        unknown: list[int] = []
        if since >= self._floor:  # all that moved is here, newest last
            moved = []
            for key in reversed(self._rooms):
                if self._rooms[key].newest <= since:
                    break
                moved.append(key)
            if not moved:
                return found, unknown
            wanted = rooms if isinstance(rooms, set | frozenset | dict) else set(rooms)
            rooms = [key for key in moved if key in wanted]
        for key in rooms:
            room = self._rooms.get(key)
            if since < (self._floor if room is None else room.floor):
                unknown.append(key)
            elif room is not None:
                receipts = [r for r in room.receipts if since < r.position <= upto]
                if receipts:
                    found[key] = receipts
        return found, unknown

    def listening_since(self, position: int) -> None:
        """The channel is heard from now on; `position` was read from the database after that began.

        Of what other processes wrote up to there nothing was heard.
        """
        self._forget(position)

    def heard(self, payload: str) -> None:
        """A notification: kept now, shown once the stream tells of its commit. Our own are known already."""
        receipt = heard(payload)
        if self.add(receipt):
            self._untold.append(receipt)

    def changed(self, change: Change) -> Iterable[str]:
        """A commit: wake those who may see the receipts other processes wrote with it."""
        if change.unknown:
            self._forget(change.position)
            return ()
        if not self._untold:
            return ()
        untold: list[Receipt] = []  # what lies below, too: our own commits overtake the news of others
        wake: set[str] = set()
        for receipt in self._untold:
            if not change.before < receipt.position <= change.position:
                untold.append(receipt)
            else:
                wake.update((receipt.user_id,) if receipt.private else self._readers(receipt.room))
        self._untold = untold
        return wake

    def _forget(self, position: int) -> None:
        """Of what lies up to a position something may be missing; what is known above it is not told again."""
        floor = self._floor = max(self._floor, position)
        for key, room in tuple(self._rooms.items()):
            room.floor = max(room.floor, floor)
            room.receipts = deque(receipt for receipt in room.receipts if receipt.position > room.floor)
            if not room.receipts:
                del self._rooms[key]
        self._size = sum(len(room.receipts) for room in self._rooms.values())
        self.latest = max(self.latest, position)
        self._untold = [receipt for receipt in self._untold if receipt.position > floor]
