# SPDX-License-Identifier: Apache-2.0
"""Waits end in time, each once, and leave no timer behind."""

from __future__ import annotations

from dataclasses import dataclass, field

from twisted.internet.task import Clock

from homeserver.sync.deadlines import Deadlines


@dataclass(eq=False, slots=True)
class Waiting:
    clock: Clock
    over: list[float] = field(default_factory=list)

    def expire(self) -> None:
        self.over.append(self.clock.seconds())


def test_each_ends_in_time() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    lengths = (30.0, 0.01, 5.0, 30.0, 29.99, 5.05)
    waiting = [Waiting(clock) for _ in lengths]
    for each, seconds in zip(waiting, lengths, strict=True):
        deadlines.add(each, seconds)
    for _ in range(400):
        clock.advance(0.1)
    for each, seconds in zip(waiting, lengths, strict=True):
        assert len(each.over) == 1 and seconds <= each.over[0] <= seconds + 0.25
    assert clock.getDelayedCalls() == []


def test_who_does_not_wait_any_more_is_not_told() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    gone, stays = Waiting(clock), Waiting(clock)
    number = deadlines.add(gone, 1.0)
    deadlines.add(stays, 2.0)
    deadlines.remove(gone, number)
    deadlines.remove(gone, number)
    clock.advance(1.0)
    clock.advance(1.0)
    assert (gone.over, stays.over) == ([], [2.0]) and clock.getDelayedCalls() == []
    deadlines.remove(stays, deadlines.add(stays, 5.0))
    assert clock.getDelayedCalls() == []


def test_one_timer_serves_all() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    for number in range(100):
        deadlines.add(Waiting(clock), 10.0 + number)
    assert len(clock.getDelayedCalls()) == 1
