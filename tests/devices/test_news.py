# SPDX-License-Identifier: Apache-2.0
"""What is remembered of devices' news, as other processes tell it."""

from __future__ import annotations

from collections.abc import Set

from homeserver.devices.news import DeviceNews, Moved
from homeserver.stream.changes import Change

ALICE, BOB = "@alice:localhost", "@bob:localhost"


def test_what_was_heard_before_its_commit_outlives_a_hole_below_it() -> None:
    """The database is read up to where a connection broke; what comes after that is being heard already."""
    news = DeviceNews(origin="here", position=10, readers=lambda _room: (), listening=set)
    news.heard(f'["messages", "there", 15, ["{ALICE}"]]')
    news.heard(f'["counts", "there", 12, [["{ALICE}", "PHONE"]]]')
    news.changed(Change(before=12, count=0, foreign=True, unknown=True))
    assert set(news.changed(Change(before=12, count=3, foreign=True))) == {ALICE}
    assert news.messages.may_have_changed(ALICE, 14) and not news.counts.may_have_changed(
        (ALICE, "PHONE"), 12
    )


def test_changes_of_lists_are_forgotten_by_how_many_rooms_they_name() -> None:
    news = DeviceNews(
        origin="here", position=10, readers=lambda _room: (), listening=set, list_bytes=1_000_000
    )
    everywhere = frozenset(range(1_000))
    for position in range(11, 111):
        news.landed([Moved("lists", position, f"@u{position}:localhost", rooms=everywhere)])
    assert news.list_weight <= 1_000_000
    assert news.lists_since(ALICE, {1}, 10) is None  # not known, and not: nothing
    assert news.lists_since(ALICE, {1}, 108) == {"@u109:localhost": {1}, "@u110:localhost": {1}}
    news.changed(Change(before=110, count=0, foreign=True, unknown=True))
    assert news.list_weight == 0


def test_readers_are_asked_for_once_for_all_rooms_of_what_was_told_together() -> None:
    asked: list[Set[int]] = []

    def readers(rooms: Set[int]) -> list[str]:
        asked.append(set(rooms))
        return [BOB]

    news = DeviceNews(origin="here", position=10, readers=readers, listening=set)
    for position, rooms in ((11, [1, 2, 3]), (12, [3, 4])):
        news.heard(f'["lists", "there", {position}, "{ALICE}", {rooms}, false]')
    assert set(news.changed(Change(before=10, count=2, foreign=True))) == {ALICE, BOB}
    assert asked == [{1, 2, 3, 4}]
    assert news.landed([Moved("lists", 13, ALICE)]) == {ALICE}
    assert len(asked) == 1
