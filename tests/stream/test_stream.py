# SPDX-License-Identifier: Apache-2.0
"""The stream as a process sees it, without a database: what moves, who wakes, what a failure may not hold up."""

from __future__ import annotations

from collections.abc import Iterable

from homeserver.stream import Change, Stream


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
