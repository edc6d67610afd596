# SPDX-License-Identifier: Apache-2.0
"""What counts as too much: a delay that lasts, whichever it is, and nothing that passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.task import Clock

from homeserver.web.strain import IDLE_LOOK, LATE, LOOK, LOOKS, RELAXED, Sign, Strain


class World:
    """A process whose reactor is as late, and whose database as slow, as the test says."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.database = 0.0
        self.late = 0.0
        self.looks = 0
        self.strain = Strain(self.clock, (Sign("database", lambda: self.database, 0.25),), self._looked)

    def _looked(self, strained: bool) -> None:
        assert strained is self.strain.strained
        self.looks += 1

    def look(self, times: int = 1) -> None:
        """Let the process come to so many looks."""
        for _ in range(times):
            call: Any
            (call,) = self.clock.getDelayedCalls()
            self.clock.advance(call.getTime() - self.clock.seconds() + self.late)


@contextmanager
def world() -> Iterator[World]:
    made = World()
    made.strain.start()
    try:
        yield made
    finally:
        made.strain.stop()
        assert not made.clock.getDelayedCalls()


def test_what_passes_is_no_strain() -> None:
    """One long turn of the reactor, or a few, as a large response makes them."""
    with world() as process:
        for _ in range(5):
            process.late = 3.0
            process.look(LOOKS - 1)
            process.late = 0.0
            process.look()
            assert not process.strain.strained


def test_what_lasts_is_one_until_it_has_passed_for_a_while() -> None:
    with world() as process:
        process.late = LATE * 1.1
        process.look(LOOKS)
        assert process.strain.strained
        process.late = 0.0
        process.look(RELAXED - 1)
        process.late = LATE
        process.look()
        process.late = 0.0
        process.look(RELAXED - 1)
        assert process.strain.strained
        process.look()
        assert not process.strain.strained


def test_a_database_that_has_no_connection_free_is_one() -> None:
    with world() as process:
        process.database = 0.3
        process.look(LOOKS)
        assert process.strain.strained
        assert process.strain.figures() == {"reactor": 0.0, "database": 1.2}


def test_who_is_idle_looks_seldom_and_who_is_not_often() -> None:
    """The more there is to see the sooner it is seen."""
    with world() as process:
        process.look(3)
        began = process.clock.seconds()
        process.late = LATE
        process.look(LOOKS + 5)
        assert process.clock.seconds() - began < (LOOKS + 5) * (LOOK + LATE) + 0.3
        assert process.looks == 3 + LOOKS + 5


def test_looking_goes_on_after_what_is_done_about_it_failed() -> None:
    """Else a process that was strained at the time would be for ever."""
    clock, looks = Clock(), 0

    def fail(_strained: bool) -> None:
        nonlocal looks
        looks += 1
        raise ValueError("a bug")

    strain = Strain(clock, (), fail)
    strain.start()
    for expected in (1, 2):
        with pytest.raises(ValueError, match="a bug"):
            clock.advance(IDLE_LOOK)
        assert looks == expected
    strain.stop()
