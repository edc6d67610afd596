# SPDX-License-Identifier: Apache-2.0
"""No operation costs more than it did: calls of functions, bytes, statements and commits against what was recorded.

After a change that is meant to cost more, or that made something cheaper: `python -m tests.costs --record`.
"""

from __future__ import annotations

from collections.abc import Iterator
from warnings import warn

import pytest

from tests.costs.baselines import Baselines
from tests.costs.measuring import NAMES, Measuring, measuring

ROUND_TRIPS = {
    "whoami": 0,
    "send": 1,
    "ten sends at once": 2,  # who comes first does not wait for the others
    "fan-out to 20 long-polls": 1,  # the send's own
    "fan-out to 20 WebSockets": 1,
    "idle sync": 0,
    "send and sync": 1,
    "initial sync": 3,  # of 30 rooms, and of as many as there are
    "initial sync, lazy": 3,
    "messages": 0,  # of the newest events, asked for before
    "room state": 0,
    "createRoom": 2,
    "join": 2,
    "keys/query": 1,
    "keys/claim": 1,
    "messages to devices": 1,
    "another process's message": 0,
    "the same, to 20 long-polls": 2,  # for all of them: how far processes of other machines have told
    "message to another server": 1,
}
"""How often the hot paths ask the database at most."""

COMMITS = {
    "whoami": 0,
    "send": 1,
    "ten sends at once": 2,
    "fan-out to 20 long-polls": 1,
    "fan-out to 20 WebSockets": 1,
    "idle sync": 0,
    "send and sync": 1,
    "initial sync": 0,
    "initial sync, lazy": 0,
    "messages": 0,
    "room state": 0,
    "createRoom": 1,
    "join": 1,
    "keys/query": 0,
    "keys/claim": 1,
    "messages to devices": 1,
    "message to another server": 1,
}
"""How often they write at most."""


AGAIN = 3
"""Times that what seems to cost more is measured again, since timers may have fired in the middle of most repetitions:
the longer those take, the more. What does cost more does so each time."""


class Cheaper(UserWarning):
    """An operation costs less than was recorded, which a later change might use up unseen."""


@pytest.fixture(scope="module")
def measured() -> Iterator[Measuring]:
    with measuring() as found:
        yield found


@pytest.mark.filterwarnings("default::tests.costs.test_costs.Cheaper")
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_costs_no_more_than_recorded(name: str, measured: Measuring) -> None:
    """Ten per cent of calls and bytes are left to it, and not one statement or commit."""
    judgement = Baselines.read().judge(name, measured.of(name).cost)
    for _ in range(AGAIN):
        if not judgement.dearer:
            break
        judgement = Baselines.read().judge(name, measured.again(name).cost)
    if judgement.cheaper:
        told = "; ".join(map(str, judgement.cheaper))
        warn(Cheaper(f"{name} costs less: {told}. Record it: python -m tests.costs --record"), stacklevel=1)
    assert [str(each) for each in judgement.dearer] == [], (
        f"{name} costs more than recorded; which functions: python -m tests.costs --functions {name!r}"
    )


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_hot_paths_ask_the_database_no_more_often(name: str, measured: Measuring) -> None:
    assert _least(measured, name, "round_trips", ROUND_TRIPS[name]) <= ROUND_TRIPS[name]


@pytest.mark.parametrize("name", COMMITS)
def test_hot_paths_write_no_more_often(name: str, measured: Measuring) -> None:
    assert _least(measured, name, "commits", COMMITS[name]) <= COMMITS[name]


def _least(measured: Measuring, name: str, count: str, enough: int) -> int:
    """The least of several measurements; no more than needed."""
    least: int = getattr(measured.of(name).cost, count)
    for _ in range(AGAIN):
        if least <= enough:
            break
        least = min(least, getattr(measured.again(name).cost, count))
    return least
