# SPDX-License-Identifier: Apache-2.0
"""Token buckets: what passes, how long the rest waits, what is remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import LimitExceeded
from homeserver.web.rate_limits import Buckets, Limit, OwnMemory, RateLimits


class Clock:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limits(clock: Clock, limit: Limit, *, enabled: bool = True) -> RateLimits:
    return RateLimits(clock, enabled=enabled, limits={"things": limit})


def test_a_burst_then_the_exact_wait() -> None:
    """After the told milliseconds the next request passes; one millisecond before, it does not."""
    clock = Clock()
    guard = limits(clock, Limit(per_second=2, burst=3))
    for _ in range(3):
        guard.check("things", "alice")
    with pytest.raises(LimitExceeded) as refused:
        guard.check("things", "alice")
    assert refused.value.retry_after_ms == 500
    clock.now += 0.499
    with pytest.raises(LimitExceeded) as again:
        guard.check("things", "alice")
    assert again.value.retry_after_ms == 1
    clock.now += 0.001
    guard.check("things", "alice")


def test_keys_do_not_share() -> None:
    guard = limits(Clock(), Limit(1, 1))
    guard.check("things", "alice")
    guard.check("things", "bob")
    with pytest.raises(LimitExceeded):
        guard.check("things", "alice")


def test_peeking_takes_nothing_and_taking_never_refuses() -> None:
    clock = Clock()
    guard = limits(clock, Limit(1, 2))
    guard.peek("things", "alice")
    guard.peek("things", "alice")
    for _ in range(9):
        guard.take("things", "alice")
    with pytest.raises(LimitExceeded) as refused:
        guard.peek("things", "alice")
    # The debt ends at a full bucket, so that no flood locks an account for longer.
    assert refused.value.retry_after_ms == 3000


def test_switched_off() -> None:
    guard = limits(Clock(), Limit(1, 1), enabled=False)
    for _ in range(5):
        guard.check("things", "alice")
        guard.take("things", "alice")
        guard.peek("things", "alice")


def test_a_class_nobody_knows_is_an_error_even_when_off() -> None:
    guard = limits(Clock(), Limit(1, 1), enabled=False)
    with pytest.raises(KeyError):
        guard.check("thngs", "alice")


@given(
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 3)), max_size=40),
    rate=st.floats(0.01, 20),
    burst=st.integers(3, 10),
)
def test_no_more_than_the_rate_in_any_stretch(
    steps: list[tuple[float, int]], rate: float, burst: int
) -> None:
    """Between any two moments at most `burst + rate * time` passes, and what is refused passes after its wait."""
    clock, passed = Clock(), []
    guard = limits(clock, Limit(rate, burst))
    for pause, cost in steps:
        clock.now += pause
        try:
            guard.check("things", "alice", cost)
        except LimitExceeded as refused:
            clock.now += refused.retry_after_ms / 1000
            guard.check("things", "alice", cost)
        passed.append((clock.now, cost))
    for first in range(len(passed)):
        total = 0
        for moment, cost in passed[first:]:
            total += cost
            assert total <= burst + rate * (moment - passed[first][0]) + 1e-6


def test_memory_is_bounded_and_given_back() -> None:
    memory = OwnMemory(most=10)
    buckets = Buckets(Limit(1, 2), memory)
    for number in range(100):
        buckets.take(str(number), now=0.0)
    assert len(memory) == 10
    # Once the old ones are full again, using one key lets go of two others.
    for _ in range(10):
        buckets.take("new", now=100.0)
    assert len(memory) == 1
