# SPDX-License-Identifier: Apache-2.0
"""The stream as a process sees it, without a database: what moves, who wakes, what a failure may not hold up."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from homeserver.stream import Change, Stream


class Noting:
    """A subscriber that remembers."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def changed(self, change: Change) -> Iterable[str]:
        self.changes.append(change)
        return ()


class Failing:
    """A subscriber with a bug."""

    def changed(self, change: Change) -> Iterable[str]:
        raise KeyError("a bug")


class Naming:
    """A subscriber that wakes somebody."""

    def changed(self, change: Change) -> Iterable[str]:
        return ["@named:localhost"]


def test_a_subscriber_that_fails_does_not_stop_the_stream() -> None:
    """The position moves, the other subscribers hear of the commit and those concerned wake."""
    stream = Stream(origin="here", position=10)
    stream.subscribe(Failing())
    stream.subscribe(Naming())
    waits = [
        stream.listen(user).wait() for user in ("@named:localhost", "@own:localhost", "@other:localhost")
    ]
    stream.announce(Change(before=10, count=2, rooms=[7], users=["@own:localhost"]))
    assert stream.position == 12
    assert [wait.called for wait in waits] == [True, True, False]
    assert stream.rooms.may_have_changed(7, 11)


def test_what_is_committed_beyond_a_hole_wakes_when_the_hole_is_filled() -> None:
    """A commit of this process may be known before the other process's that comes before it."""
    stream = Stream(origin="here", position=10)
    listener = stream.listen("@own:localhost")
    stream.announce(Change(before=11, count=1, users=["@own:localhost"]))
    assert listener.wait().called  # and finds nothing yet
    again = listener.wait()
    assert stream.position == 10
    assert not again.called
    stream.heard('{"origin":"there","before":10,"count":1,"rooms":[],"users":[]}')
    assert stream.position == 12
    assert again.called


def test_who_waits_beyond_a_hole_is_not_held_up_by_the_next() -> None:
    """Where several processes commit without a pause there is nearly always one."""
    stream = Stream(origin="here", position=10)
    listener = stream.listen("@own:localhost")
    stream.announce(Change(before=11, count=1, users=["@own:localhost"]))
    stream.announce(Change(before=13, count=1))
    assert listener.wait().called
    again = listener.wait()
    stream.announce(Change(before=10, count=1, foreign=True))
    assert stream.position == 12
    assert again.called
    once = listener.wait()
    stream.announce(Change(before=12, count=1, foreign=True))
    assert stream.position == 14
    assert not once.called


def test_a_commit_is_heard_together_with_its_parts() -> None:
    """Rooms and users that one notification has no room for, and what the writer tells of its rooms."""
    stream, noting = Stream(origin="here", position=10), Noting()
    stream.subscribe(noting)
    stream.heard_part('there\n{"rooms" : [1, 2]}\n1 5 0 []\n2 7 1 []')
    stream.heard_part('elsewhere\n{"rooms" : [9]}')
    stream.heard_part('there\n1 5 3 []\n{"users" : ["@a:localhost"]}')
    stream.heard('{"origin":"there","before":10,"count":4,"parts":2}')
    (change,) = noting.changes
    assert (change.rooms, change.users, change.unknown) == ([1, 2], ["@a:localhost"], False)
    assert change.news == {1: ["1 5 0 []", "1 5 3 []"], 2: ["2 7 1 []"]}
    stream.heard(
        orjson.dumps({"origin": "there", "before": 14, "count": 1, "rooms": [1], "users": []}).decode()
    )
    assert not noting.changes[1].news


def test_a_commit_whose_parts_were_not_all_heard_may_have_touched_anything() -> None:
    stream, noting = Stream(origin="here", position=10), Noting()
    stream.subscribe(noting)
    stream.heard_part('there\n{"rooms" : [1, 2]}')
    stream.heard('{"origin":"there","before":10,"count":4,"parts":2}')
    stream.heard_part('there\n{"rooms" : [3]}')
    stream.missed(20)
    stream.heard('{"origin":"there","before":20,"count":1,"parts":1}')
    assert [change.unknown for change in noting.changes] == [True, True, True]


def test_the_parts_of_this_process_are_its_own() -> None:
    stream, noting = Stream(origin="here", position=10), Noting()
    stream.subscribe(noting)
    stream.heard_part('here\n{"rooms" : [1]}')
    stream.heard('{"origin":"here","before":10,"count":1,"rooms":[]}')
    assert not noting.changes
