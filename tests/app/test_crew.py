# SPDX-License-Identifier: Apache-2.0
"""Workers that cannot be started, or that take the place of more than they are: those who serve go on."""

from __future__ import annotations

from homeserver.app.workers.backoff import LONGEST, SETTLED, Backoff

# Pauses.


def test_the_pauses_grow_and_end() -> None:
    """A worker that dies at once each time must not keep the machine busy."""
    backoff, now, pauses = Backoff(), 0.0, []
    for _ in range(9):
        pauses.append(backoff.died(now, started=now))
        now = backoff.ready_at + 1
    assert pauses == [0, 1, 2, 4, 8, 16, 32, LONGEST, LONGEST]
    assert backoff.died(now + SETTLED, started=now) == 0


def test_those_that_end_together_count_once() -> None:
    """Eight that a poor moment ends are followed at once; the eight that follow them and end, too, after one pause."""
    backoff = Backoff()
    assert [backoff.died(100.0 + number / 10, started=0.0) for number in range(8)] == [0.0] * 8
    assert backoff.died(110.0, started=101.0) == 1.0
    assert [backoff.died(110.5, started=101.0) for _ in range(7)] == [0.5] * 7
    assert backoff.ready_at == 111.0
    assert backoff.died(112.0, started=111.0) == 2.0
