# SPDX-License-Identifier: Apache-2.0
"""What a process tells the others of a room where people only talk: all that who knows the room as it was needs.

So a message that another process wrote costs this one no look at the database. Owns the form of a line
(`RoomBatch.news`) and which batches fit into one: messages of our own on top of the head, nothing that touches the
state, the members or what was there before. Of all others only is told that they are (`following.py` reads them up).

A line is the room's key, the counter of the head it goes on, the positions of the commit before its first, and JSON:
`[depth, [ordinal of each extremity, …], [event, …]]` with `_FIELDS` of each event. What is too much for one line takes
several, each with the next events. Processes of two releases read each other's lines, so the form changes only together
with the channel's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from sys import getsizeof
from typing import Any

import orjson

from homeserver.events import RoomEvent
from homeserver.rooms.engine.head import RoomHead
from homeserver.rooms.engine.rows import Rows
from storage.events import StoredEvent
from storage.rooms import NewsOfRoom
from storage.stream import MOST_IN_A_LINE

_MOST_BESIDE = 400
"""Bytes of a line that are left to what it says besides events."""

_FIELDS = (
    "ordinal",
    "depth",
    "origin_server_ts",
    "snapshot",
    "visibility",
    "event_id",
    "type",
    "sender",
    "transaction_id",
    "device_id",
    "pdu",
    "current_snapshot",
    "outbound",
)
_told = attrgetter(*_FIELDS)
_REDACTION = "m.room.redaction"


def lines_of(
    head: RoomHead, expected: int, start: int, rows: Rows, events: Sequence[RoomEvent]
) -> Sequence[str]:
    """The lines for events put on the head with that counter, of which `head` is what became; none if that won't do."""
    if not head.room or rows.snapshots or rows.summary or rows.redactions or rows.received:
        return ()
    ends = orjson.dumps([ordinal for _, ordinal in head.extremities])
    most = MOST_IN_A_LINE - _MOST_BESIDE
    if len(ends) > _MOST_BESIDE - 100:
        return ()
    told: list[list[bytes]] = []
    left = 0
    for entry in events:
        stored = entry.stored
        if stored.state_key is not None or stored.flags or stored.type == _REDACTION:
            return ()
        words = orjson.dumps(_told(stored))
        size = len(words) + 1
        if size > most:
            return ()
        if size > left:
            told.append([])
            left = most
        told[-1].append(words)
        left -= size
    lines = []
    for part in told:
        lines.append(
            (
                b"%d %d %d [%d,%b,[%b]]" % (head.room, expected, start, head.depth, ends, b",".join(part))
            ).decode()
        )
        start += len(part)
    return lines


class Told:
    """The lines about one commit to a room, `before` the position before the commit's first."""

    __slots__ = ("before", "expected", "lines", "weight")

    def __init__(self, lines: Sequence[str], before: int) -> None:
        self.lines = lines
        self.before = before
        self.expected = int(lines[0].split(" ", 2)[1])
        """The counter of the head it goes on."""
        self.weight = 300 + sum(map(getsizeof, lines))
        """About how many bytes of memory it takes."""


def read(told: Iterable[Told], held: RoomHead) -> NewsOfRoom | None:
    """What was told of a room, as the database would say it, so far as it goes on without a gap from the head held.

    None if nothing does.
    """
    head, depth = held.head, held.depth
    ends = [ordinal for _, ordinal in held.extremities]
    events: list[StoredEvent] = []
    for each in told:
        if each.expected != head:
            continue
        for line in each.lines:
            _, _, start, news = line.split(" ", 3)
            depth, ends, written = orjson.loads(news)
            first = each.before + int(start) + 1
            events += [_stored(held.room, position, values) for position, values in enumerate(written, first)]
        head += 1
    if not events or any(e.ordinal != ordinal for ordinal, e in enumerate(events, held.next_ordinal)):
        return None
    ids = {ordinal: event_id for event_id, ordinal in held.extremities}
    ids.update((stored.ordinal, stored.event_id) for stored in events)
    return NewsOfRoom(
        room=held.room,
        head=head,
        depth=depth,
        next_ordinal=events[-1].ordinal + 1,
        snapshot=held.snapshot,
        next_snapshot=held.next_snapshot,
        snapshot_weight=held.snapshot_weight,
        position=events[-1].position,
        oldest_position=held.oldest_position,
        extremities=[(ids[ordinal], ordinal) for ordinal in ends],
        partial=False,
        events=events,
    )


def _stored(room: int, position: int, values: Sequence[Any]) -> StoredEvent:
    ordinal, depth, ts, snapshot, visibility, event_id, event_type, sender, *own, pdu, current, outbound = (
        values
    )
    transaction_id, device_id = own
    return StoredEvent(
        room,
        ordinal,
        position,
        depth,
        ts,
        snapshot,
        None,
        visibility,
        0,
        event_id,
        event_type,
        None,
        sender,
        None,
        transaction_id,
        device_id,
        None,
        pdu,
        None,
        None,
        current_snapshot=current,
        outbound=outbound,
    )
