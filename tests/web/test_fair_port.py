# SPDX-License-Identifier: Apache-2.0
"""Who takes a connection of those that accept on one socket; counted, without sockets."""

from __future__ import annotations

from homeserver.app.workers.roster import Roster, Seat, new_roster
from homeserver.web.fair_port import QUIET, Burst, at_once, is_ahead, is_behind


class Worker:
    """Takes what comes unless it has had its share."""

    def __init__(self, roster: Roster, number: int, held: int = 0) -> None:
        roster.seat(number, 1000 + number)
        roster.admit(number)
        self.seat, self.burst, self.held = Seat(roster, number), Burst(), held
        self.seat.tell(held)

    def takes(self, now: float) -> bool:
        """Whether it accepts one now."""
        others = self.seat.others()
        ahead = self.burst.is_ahead(*self.seat.taken(), now)
        if is_ahead(self.held, others) or (ahead and not is_behind(self.held, others)):
            return False
        self.held += 1
        self.seat.tell(self.held)
        self.seat.accepted(1)
        return True


def _opened(workers: list[Worker], count: int, now: float) -> list[int]:
    """How many each takes of those opened at once, where the first is always asked first."""
    before = [worker.held for worker in workers]
    for _ in range(count):
        assert any(worker.takes(now) for worker in workers)
    return [worker.held - had for worker, had in zip(workers, before, strict=True)]


def test_a_burst_is_divided_whoever_is_first() -> None:
    """Also where each has many that idle, among which a few more or less are no difference."""
    for idle in ((0, 0), (100, 100), (92, 108), (9, 5)):
        roster = Roster(new_roster(2), 2)
        workers = [Worker(roster, number, held) for number, held in enumerate(idle)]
        for burst in range(3):
            first, second = _opened(workers, 8, burst * (QUIET + 1))
            assert first + second == 8
            assert abs(first - second) <= 2, (idle, burst, first, second)


def test_who_has_less_than_its_share_takes_more_of_a_burst() -> None:
    """As after the restart of one of them, when the others have all that stay."""
    roster = Roster(new_roster(2), 2)
    workers = [Worker(roster, 0, 100), Worker(roster, 1)]
    assert _opened(workers, 8, 0.0) == [0, 8]


def test_one_by_itself_takes_all() -> None:
    """And one whose sibling was followed by another begins to count anew."""
    roster = Roster(new_roster(2), 2)
    alone = Worker(roster, 0)
    assert _opened([alone], 8, 0.0) == [8]
    other = Worker(roster, 1, 8)
    assert sorted(_opened([alone, other], 8, 0.1)) in ([3, 5], [4, 4])
    roster.clear(1)
    assert alone.takes(0.2)


def test_others_that_hang_hold_nobody_up() -> None:
    """Those that are only busy have some steps back to come; then it is more each time, up to a bound."""
    assert [at_once(unaided) for unaided in range(12)] == [1, 1, 1, 1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert at_once(10**9) == 64
