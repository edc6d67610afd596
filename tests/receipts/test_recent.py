# SPDX-License-Identifier: Apache-2.0
"""What is remembered of recent receipts is either all there is or admitted to be unknown."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.receipts import RecentReceipts, recent
from homeserver.stream.changes import Change
from storage.receipts import Receipt

ROOMS = range(5)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(recent, "PER_ROOM", 3)
    monkeypatch.setattr(recent, "CAPACITY", 8)
    yield


@pytest.mark.usefixtures("_small")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(ROOMS), max_size=40).flatmap(
        lambda rooms: st.tuples(st.just(rooms), st.permutations(range(len(rooms))))
    ),
    st.integers(0, 3),
)
def test_nothing_is_missing_from_what_is_known(history: tuple[list[int], list[int]], start: int) -> None:
    """Receipts arrive in any order; whatever range is asked for, the rooms not called unknown are told in full."""
    rooms, order = history
    board = RecentReceipts(start, lambda _room: ())
    receipts = [
        Receipt(position, room, "@a:b", False, "", f"${position}", position, 0)
        for position, room in enumerate(rooms, 1)
    ]
    for at in order:
        board.add(receipts[at])
        board.add(receipts[at])
    end = len(receipts)
    for since in range(end + 1):
        for upto in (since, end):
            found, unknown = board.since(list(ROOMS), since, upto)
            for room in set(ROOMS) - set(unknown):
                wanted = [r for r in receipts if r.room == room and since < r.position <= upto]
                assert found.get(room, []) == wanted


def test_what_was_refused_is_not_told() -> None:
    """Of two at once the one that came later may be less far: it was not written, which is learned with the other's."""
    board = RecentReceipts(0, lambda _room: ())
    refused = Receipt(12, 1, "@a:b", False, "", "$50", 50, 0)
    others = [
        refused._replace(position=13, user_id="@c:b"),
        refused._replace(position=14, private=True),
        refused._replace(position=15, thread="main"),
        refused._replace(position=16, event_id="$70", place=70),
    ]
    for receipt in (refused, *others):
        board.add(receipt)
    written = refused._replace(position=11, event_id="$60", place=60)
    assert board.add(written)
    assert board.since([1], 10, 20) == ({1: [written, *others]}, [])
    assert board.since([1], 11, 12) == ({}, [])
    assert board.size == 5


def test_the_newest_are_known() -> None:
    """What just came is remembered: a live receipt is never called unknown."""
    board = RecentReceipts(10, lambda _room: ())
    for position in range(11, 11 + recent.PER_ROOM * 2):
        receipt = Receipt(position, 1, "@a:b", False, "", "$e", position, 0)
        assert board.add(receipt)
        assert board.since([1, 2], position - 1, position) == ({1: [receipt]}, [])
    assert board.since([1, 2], 9, 10) == ({}, [1, 2])


def test_after_a_hole_nothing_older_is_claimed() -> None:
    """News may have been lost: everything up to there is unknown again."""
    board = RecentReceipts(0, lambda _room: ())
    board.add(Receipt(1, 1, "@a:b", False, "", "$e", 1, 0))
    board.changed(Change(before=5, count=0, unknown=True))
    assert board.since([1], 4, 5) == ({}, [1])
    assert board.since([1], 5, 6) == ({}, [])
    board.listening_since(7)
    assert board.since([1], 6, 7) == ({}, [1])


def test_what_is_known_above_a_hole_stays_known() -> None:
    """A commit of this process is known before what another wrote below it turns out not to be."""
    board = RecentReceipts(0, lambda room: [f"@reader-of-{room}:b"])
    receipts = [Receipt(position, 1, "@a:b", False, "", "$e", position, 0) for position in range(8)]
    for receipt in receipts[4:7]:
        board.add(receipt)
    board.heard(orjson.dumps(list(receipts[7])).decode())
    board.changed(Change(before=4, count=1, foreign=True, unknown=True))
    assert board.since([1, 2], 4, 7) == ({}, [1, 2])
    assert board.since([1, 2], 5, 7) == ({1: receipts[6:]}, [])
    assert board.size == 2
    assert set(board.changed(Change(before=6, count=1, foreign=True))) == {"@reader-of-1:b"}


def test_readers_are_woken_though_a_commit_of_our_own_came_first() -> None:
    """A receipt is heard of before the stream's news of its commit; what is committed here may come between."""
    board = RecentReceipts(6, lambda room: [f"@reader-of-{room}:b"])
    board.heard(orjson.dumps(list(Receipt(8, 1, "@a:b", False, "", "$e", 8, 0))).decode())
    assert not set(board.changed(Change(before=9, count=1)))
    assert set(board.changed(Change(before=7, count=1, foreign=True))) == {"@reader-of-1:b"}
    assert not set(board.changed(Change(before=7, count=1, foreign=True)))
