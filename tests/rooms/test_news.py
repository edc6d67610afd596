# SPDX-License-Identifier: Apache-2.0
"""Lines by which one process tells another what was said in a room."""

from __future__ import annotations

import pytest

from homeserver.events import RoomEvent
from homeserver.protocol.room_versions import room_version
from homeserver.rooms.engine.head import RoomHead
from homeserver.rooms.engine.news import Told, lines_of, read
from homeserver.rooms.engine.rows import Rows
from storage.events import SOFT_FAILED, StoredEvent
from storage.stream import MOST_IN_A_LINE

ROOM, VERSION = "!room:localhost", room_version("11")


def an_event(ordinal: int, **changes: object) -> StoredEvent:
    stored = StoredEvent(
        room=7,
        ordinal=ordinal,
        position=0,
        depth=ordinal,
        origin_server_ts=1_700_000_000_000,
        snapshot=3,
        replaces=None,
        visibility=1,
        flags=0,
        event_id=f"${ordinal}",
        type="m.room.message",
        state_key=None,
        sender="@alice:localhost",
        redacted_by=None,
        transaction_id="one\ntwo",
        device_id="Gerät",
        auth_chain=None,
        pdu='{"content":{"body":"line\\nline"}}',
        replaced_pdu=None,
        redaction_pdu=None,
        current_snapshot=3,
    )
    return stored._replace(**changes)  # type: ignore[arg-type]


def a_head(counter: int, *ends: int, next_ordinal: int) -> RoomHead:
    head = RoomHead(ROOM, VERSION)
    head.room, head.head, head.snapshot, head.next_ordinal = 7, counter, 3, next_ordinal
    head.position, head.depth = 100, max(ends, default=0)
    head.extremities = tuple((f"${ordinal}", ordinal) for ordinal in ends)
    return head


def told_of(held: RoomHead, events: list[StoredEvent], *ends: int, start: int = 0) -> list[str]:
    """By the process that put the events on that head."""
    head = a_head(held.head, *ends, next_ordinal=events[-1].ordinal + 1)
    return list(lines_of(head, held.head, start, Rows(), [RoomEvent(e, ROOM, VERSION) for e in events]))


def test_who_holds_the_head_reads_the_events_as_they_are_stored() -> None:
    held = a_head(5, 4, 8, next_ordinal=9)
    events = [an_event(9), an_event(10, outbound=True, transaction_id=None, device_id=None)]
    lines = told_of(held, events, 4, 10, start=3)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    news = read([Told(lines, 200)], held)
    assert news is not None
    assert news.events == [event._replace(position=204 + n) for n, event in enumerate(events)]
    assert (news.head, news.position, news.next_ordinal, news.depth) == (6, 205, 11, 10)
    assert news.extremities == [("$4", 4), ("$10", 10)]


def test_commits_follow_one_another_up_to_a_gap() -> None:
    """What was known before is passed over, and what lies beyond a commit that was not told is left."""
    told = [
        Told(
            told_of(a_head(counter, ordinal - 1, next_ordinal=ordinal), [an_event(ordinal)], ordinal), before
        )
        for counter, ordinal, before in ((4, 8, 90), (5, 9, 100), (6, 10, 110), (8, 12, 130))
    ]
    news = read(told, a_head(5, 8, next_ordinal=9))
    assert news is not None
    assert news.events is not None
    assert [event.event_id for event in news.events] == ["$9", "$10"]
    assert (news.head, news.position) == (7, 111)
    assert read(told, a_head(7, 11, next_ordinal=12)) is None


def test_a_room_that_is_held_otherwise_reads_nothing() -> None:
    """The same counter with other events before it cannot be; should it be, nothing is put on it."""
    lines = told_of(a_head(5, 8, next_ordinal=9), [an_event(9)], 9)
    assert read([Told(lines, 100)], a_head(5, 9, next_ordinal=10)) is None
    twice = [*lines, *told_of(a_head(5, 8, next_ordinal=9), [an_event(11)], 11, start=1)]
    assert read([Told(twice, 100)], a_head(5, 8, next_ordinal=9)) is None


@pytest.mark.parametrize("size", [100, 2_000, 7_000])
def test_what_is_too_much_for_a_notification_takes_several(size: int) -> None:
    held = a_head(5, *range(1, 9), next_ordinal=9)
    events = [an_event(ordinal, pdu='"' + "ü" * (size // 2) + '"') for ordinal in range(9, 29)]
    lines = told_of(held, events, 28)
    assert all(len(line.encode()) <= MOST_IN_A_LINE for line in lines)
    assert len(lines) >= 20 * size // MOST_IN_A_LINE
    news = read([Told(lines, 100)], held)
    assert news is not None
    assert news.events == [event._replace(position=101 + n) for n, event in enumerate(events)]


@pytest.mark.parametrize(
    "changes",
    [
        {"state_key": ""},
        {"flags": SOFT_FAILED},
        {"type": "m.room.redaction"},
        {"pdu": "x" * MOST_IN_A_LINE},
    ],
)
def test_what_is_not_simple_is_not_told(changes: dict[str, object]) -> None:
    held = a_head(5, 8, next_ordinal=9)
    assert not told_of(held, [an_event(9), an_event(10, **changes)], 10)


def test_rooms_of_very_many_ends_are_not_told() -> None:
    held = a_head(5, 8, next_ordinal=900)
    assert not told_of(held, [an_event(900)], *range(100, 300))
