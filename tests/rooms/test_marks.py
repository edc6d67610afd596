# SPDX-License-Identifier: Apache-2.0
"""Going back to a mark, and what memory a room is said to take: both without counting all there is each time."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from homeserver.events import RoomEvent
from homeserver.protocol.room_versions import room_version
from homeserver.rooms.engine.head import RoomHead
from homeserver.rooms.engine.room import RECENT_EVENTS, Room
from homeserver.rooms.engine.rows import Rows
from storage.events import StoredEvent

VERSION = room_version("11")
GROWING = ("snapshots", "redactions", "relations", "received", "placed")
KINDS = (
    *GROWING,
    "events",
    "current",
    "intervals",
    "ended",
    "renewed",
    "summary",
    "gaps",
    "waiting",
    "until",
)


def write(rows: Rows, kind: str, number: int) -> None:
    """As events do that are put on a head."""
    row: dict[str, Any] = {"user_id": f"@{number % 3}", "until_i": None, "n": number}
    if kind == "events":
        rows.events.append(row)
        rows.offsets.append(number)
    elif kind in {"current", "ended", "renewed"}:
        getattr(rows, kind)[f"@{number % 3}"] = row
    elif kind == "summary":
        rows.summary = True
    elif kind in {"gaps", "waiting"}:
        setattr(rows, kind, [*getattr(rows, kind)[number % 2 :], row])
    elif kind == "until":
        for each in rows.intervals:
            each["until_i"] = number
    else:
        getattr(rows, kind).append(row)


@given(before=st.lists(st.sampled_from(KINDS)), since=st.lists(st.sampled_from(KINDS)))
def test_nothing_is_left_of_what_was_written_since_a_mark(before: list[str], since: list[str]) -> None:
    rows = Rows()
    for number, kind in enumerate(before):
        write(rows, kind, number)
    then = deepcopy(asdict(rows))
    mark = rows.mark()
    for number, kind in enumerate(since, len(before)):
        write(rows, kind, number)
    rows.roll_back(mark)
    assert asdict(rows) == then


def event(position: int, size: int, state_key: str | None = None) -> RoomEvent:
    stored = StoredEvent(
        room=1,
        ordinal=position,
        position=position,
        depth=position,
        origin_server_ts=0,
        snapshot=1,
        replaces=None,
        visibility=0,
        flags=0,
        event_id=f"${position}",
        type="m.room.message",
        state_key=state_key,
        sender="@a:localhost",
        auth_chain=None,
        transaction_id=None,
        device_id=None,
        redacted_by=None,
        pdu=" " * size,
        redaction_pdu=None,
        replaced_pdu=None,
    )
    return RoomEvent(stored, "!room:localhost", VERSION)


@given(commits=st.lists(st.lists(st.integers(0, 100), max_size=2 * RECENT_EVENTS), max_size=5))
def test_a_room_takes_what_it_remembers(commits: list[list[int]]) -> None:
    """Also what it took before is not counted any more, of recent events as of state."""
    room = Room(RoomHead("!room:localhost", VERSION, head=1))
    position = 0
    for sizes in commits:
        events = [event(position + n, size) for n, size in enumerate(sizes, 1)]
        position += len(sizes)
        head = room.head.copy()
        head.head, head.position = head.head + 1, position
        head.state = head.state.set(("org.example", ""), event(position, len(sizes), ""))
        room.advance(head, events)
        kept = sum(entry.weight for entry in (*room.recent, *head.state.values()))
        assert room.measure() == RoomHead("!room:localhost", VERSION).weight + kept
    assert len(room.recent) == min(position, RECENT_EVENTS)
