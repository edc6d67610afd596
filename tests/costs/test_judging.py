# SPDX-License-Identifier: Apache-2.0
"""The guard's own judgement: what it calls dearer and cheaper. No server runs here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.costs.baselines import Baselines
from tests.costs.bench import Cost, settled

COST = Cost(
    calls=1000,
    turns=3,
    round_trips=1,
    statements=1,
    commits=1,
    notifications=1,
    database_sent=1000,
    database_received=0,
    client_bytes=500,
    wal=1600,
)


def recorded() -> Baselines:
    baselines = Baselines({}, {})
    baselines.record("send", COST, "3.11")
    return baselines


@pytest.mark.parametrize(
    ("count", "value", "dearer", "cheaper"),
    [
        ("calls", 1120, False, False),
        ("calls", 1121, True, False),
        ("calls", 880, False, True),
        ("statements", 2, True, False),
        ("commits", 2, True, False),
        ("round_trips", 0, False, True),
        ("database_received", 64, False, False),
        ("database_received", 65, True, False),
        ("turns", 30, False, False),
    ],
)
def test_a_count_is_judged(count: str, value: int, dearer: bool, cheaper: bool) -> None:
    """A tenth of what has a measure, nothing of what is counted by the piece."""
    judgement = recorded().judge("send", dataclasses.replace(COST, **{count: value}), "3.11")
    assert ([each.count for each in judgement.dearer] == [count]) == dearer
    assert ([each.count for each in judgement.cheaper] == [count]) == cheaper


def test_another_python_is_held_to_a_wider_factor() -> None:
    """Statements are held to what they were, whoever counts them."""
    more = dataclasses.replace(COST, calls=1270, statements=2)
    assert [each.count for each in recorded().judge("send", more, "3.13").dearer] == ["statements"]
    much = dataclasses.replace(COST, calls=1271)
    assert [str(each) for each in recorded().judge("send", much, "3.13").dearer] == [
        "calls: 1000 → 1271 (+27 %)"
    ]


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    """Each Python keeps its own calls, and an operation that is no more is forgotten."""
    baselines = recorded()
    baselines.record("send", dataclasses.replace(COST, calls=900), "3.12")
    baselines.record("gone", COST, "3.12")
    baselines.keep_only(("send",))
    baselines.write(tmp_path / "baselines.json")
    assert Baselines.read(tmp_path / "baselines.json").calls == {
        "3.11": {"send": 1000},
        "3.12": {"send": 900},
    }


def test_disturbed_measurements_move_nothing() -> None:
    """Calls are the fewest of all, what is counted by the piece is the median."""
    interrupted = dataclasses.replace(COST, calls=1013, turns=4)
    disturbed = dataclasses.replace(COST, calls=5000, statements=9)
    assert settled([interrupted, disturbed, COST]) == COST
