# SPDX-License-Identifier: Apache-2.0
"""What a server owes for its events, and that the processes of a machine lend it only once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from federation.inbound.budgets import MOST_ORIGINS, OriginCosts
from homeserver.web.bucket_table import BucketTable, new_bucket_table

A, B = "a.test", "b.test"


@pytest.fixture
def table() -> Iterator[int]:
    descriptor = new_bucket_table()
    yield descriptor
    os.close(descriptor)


def test_a_debt_is_paid_off_with_time() -> None:
    now = 1000.0
    costs = OriginCosts(lambda: now, allowed=500.0, per_second=100.0)
    costs.charge(A, 450.0)
    costs.charge(A, 450.0)
    assert (costs.debt(A), costs.wait(A), costs.wait(B)) == (900.0, 4.0, 0.0)
    now += 3.0
    assert (costs.debt(A), costs.wait(A)) == (600.0, 1.0)
    now += 100.0
    assert costs.debt(A) == 0.0
    costs.charge(A, 50.0)
    assert costs.debt(A) == 50.0


def test_processes_of_a_machine_lend_together(table: int) -> None:
    """Each maps the memory for itself; a limit of the same name has nothing to do with it."""
    memories = [BucketTable(table) for _ in range(3)]
    processes = [
        OriginCosts(lambda: 1000.0, memory=each.of_class("costs"), allowed=500.0) for each in memories
    ]
    for process in processes:
        process.charge(A, 400.0)
    assert [(process.debt(A), process.wait(A), process.debt(B)) for process in processes] == [
        (1200.0, 7.0, 0.0)
    ] * 3
    assert OriginCosts(lambda: 1000.0, memory=memories[0].of_class("others")).debt(A) == 0.0


def test_debts_of_very_many_servers_are_bounded() -> None:
    costs = OriginCosts(lambda: 1000.0)
    for number in range(MOST_ORIGINS + 10):
        costs.charge(f"s{number}.test", 1000.0)
    assert costs.debt("s9.test") == 0.0
    assert costs.debt(f"s{MOST_ORIGINS}.test") == 1000.0
