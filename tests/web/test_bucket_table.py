# SPDX-License-Identifier: Apache-2.0
"""Buckets in shared memory: what one process takes is gone for all."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import LimitExceeded
from homeserver.web.bucket_table import BucketTable, new_bucket_table
from homeserver.web.rate_limits import DEFAULTS, SHARED, Buckets, Limit, RateLimits

LIMIT = Limit(per_second=2, burst=3)


@pytest.fixture
def table() -> Iterator[int]:
    descriptor = new_bucket_table()
    yield descriptor
    os.close(descriptor)


def process(descriptor: int, **limits: Limit) -> RateLimits:
    """Of one of several processes, each with a mapping of its own."""
    return RateLimits(lambda: 1000.0, limits=limits, memory=BucketTable(descriptor).of_class)


def test_processes_take_from_the_same_bucket(table: int) -> None:
    """What one has taken the other refuses, with the exact wait; other keys and classes are other buckets."""
    one, other = (process(table, things=LIMIT, more=LIMIT) for _ in range(2))
    for each in (one, other, one):
        each.check("things", "alice")
    for each in (one, other):
        with pytest.raises(LimitExceeded) as refused:
            each.check("things", "alice")
        assert refused.value.retry_after_ms == 500
        each.check("things", "bob")
        each.check("more", "alice")
    other.take("things", "bob", 50)
    with pytest.raises(LimitExceeded) as refused:
        one.peek("things", "bob")
    assert refused.value.retry_after_ms == 2000


def test_what_other_machines_hear_of_is_counted_by_each_process(table: int) -> None:
    """Each process is told of it, so it must not be counted together as well."""
    one, other = (process(table, **DEFAULTS) for _ in range(2))
    for name in SHARED:
        for _ in range(int(DEFAULTS[name].burst)):
            one.check(name, "alice")
        other.check(name, "alice")


@given(steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 3), st.booleans()), max_size=30))
def test_the_arithmetic_is_the_same(steps: list[tuple[float, int, bool]]) -> None:
    """As where a process counts by itself."""
    descriptor = new_bucket_table()
    together = [Buckets(LIMIT, BucketTable(descriptor).of_class("things")) for _ in range(2)]
    os.close(descriptor)
    alone, now = Buckets(LIMIT), 1000.0
    for number, (pause, cost, charged) in enumerate(steps):
        now += pause
        shared = together[number % 2]
        assert shared.wait("alice", now, cost) == alone.wait("alice", now, cost)
        if charged:
            shared.take("alice", now, cost)
            alone.take("alice", now, cost)
        else:
            assert shared.ask("alice", now, cost) == alone.ask("alice", now, cost)


def test_a_full_table_forgets_what_is_full_soonest(table: int) -> None:
    """Hundreds of thousands of keys that hardly took anything do not help one that took all there is."""
    buckets = Buckets(Limit(1, 100), BucketTable(table).of_class("things"))
    buckets.take("greedy", 1000.0, 100)
    for number in range(80_000):
        buckets.take(str(number), 1000.0)
    assert buckets.wait("greedy", 1000.0) == pytest.approx(1.0)
