# SPDX-License-Identifier: Apache-2.0
"""What is committed together: one room's batch, what waits with it, and many of them made into one. Pure.

Owns these shapes, and where in a commit each one's positions come. The rows are made by whoever writes, and say what
the SQL functions of the stream take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct, field
from twisted.internet.defer import Deferred

from storage.stream import StreamBatch

Row = dict[str, Any]


class RoomBatch(Struct):
    """One room's next events. Offsets `i` in the rows count from 1 within this batch."""

    room: Row
    events: list[Row]
    state: dict[str, list[Row]] = field(default_factory=dict)
    redactions: list[Row] = field(default_factory=list)
    users: Sequence[str] = ()
    """Users whose own list of rooms changes with it."""
    size: int = 0
    """Positions it takes; 0: one for each of its events."""
    offsets: Sequence[int] = ()
    """Of its events, where something else takes positions, too."""
    news: Callable[[int], Sequence[str]] | None = None
    """Lines for other processes that know the room as it was, given how many positions of the commit come before the
    batch's. Without any they look."""

    @property
    def positions(self) -> int:
        return self.size or len(self.events)


class RoomCommit(Struct, frozen=True):
    """Where a room batch landed: event i has position `before` + i."""

    before: int
    room: int


Landed = Callable[[RoomCommit], Iterable[str]]
"""Called when a room batch stands, before the position is shown; returns the users to wake.

If it raises, the batch stands all the same: memory is then not to be trusted, and everything in it is looked at anew.
"""


class PendingRoom(Struct):
    batch: RoomBatch
    landed: Landed
    done: Deferred[RoomCommit | None]


class PendingWrite(Struct):
    kind: str
    rows: list[Row]
    users: Sequence[str]
    landed: Callable[[int], Iterable[str]] | None
    done: Deferred[int]
    tries: int = 0


def assemble(rooms: list[PendingRoom], writes: list[PendingWrite]) -> tuple[StreamBatch, list[int]]:
    """One batch of many, with the offset at which each one's positions start."""
    batch = StreamBatch(count=0)
    users: set[str] = set()
    starts: list[int] = []
    for number, pending in enumerate(rooms):
        starts.append(batch.count)
        _add_room(batch, number, pending.batch)
        users.update(pending.batch.users)
    for write in writes:
        starts.append(batch.count)
        for offset, row in enumerate(write.rows, batch.count + 1):
            row["i"] = offset
        batch.writes.setdefault(write.kind, []).extend(write.rows)
        batch.count += len(write.rows)
        users.update(write.users)
    batch.users = sorted(users)
    return batch, starts


def news_of(rooms: list[PendingRoom], starts: list[int]) -> list[str]:
    """What the others are told of the rooms, so far as that can be told."""
    return [
        line
        for pending, start in zip(rooms, starts, strict=False)
        if pending.batch.news is not None
        for line in pending.batch.news(start)
    ]


def _add_room(batch: StreamBatch, number: int, addition: RoomBatch) -> None:
    start = batch.count
    addition.room["r"] = number
    addition.room["last"] = start + addition.positions
    batch.rooms.append(addition.room)
    offsets = addition.offsets or range(1, len(addition.events) + 1)
    for offset, row in zip(offsets, addition.events, strict=True):
        row["r"] = number
        row["i"] = start + offset
    batch.events.extend(addition.events)
    batch.count += addition.positions
    for kind, rows in addition.state.items():
        batch.state.setdefault(kind, []).extend(_placed(row, number, start) for row in rows)
    batch.redactions.extend(_placed(row, number, start) for row in addition.redactions)


def _placed(row: Row, number: int, start: int) -> Row:
    placed = {**row, "r": number}
    if "i" in row:
        placed["i"] = row["i"] + start
    if row.get("until_i") is not None:
        placed["until_i"] = row["until_i"] + start
    return placed
