# SPDX-License-Identifier: Apache-2.0
"""The big room's own promises: its verdicts and its report. No server runs here."""

import dataclasses

import pytest

from scripts.benchmarks.__main__ import main
from scripts.benchmarks.big_room.command import QUICK, Cost, Found, Pair, sections
from scripts.benchmarks.big_room.operations import OPERATIONS
from scripts.benchmarks.report import piped


def pair(small: float, large: float, *, lists_members: bool = False) -> Pair:
    return Pair("send", lists_members, Cost(small / 2, small / 2), Cost(large / 4, 3 * large / 4))


def test_what_lists_members_may_cost_more() -> None:
    """Judged is the CPU of the server and of the database together."""
    assert pair(2, 4).met and pair(2, 4).ratio == pytest.approx(2.0)
    assert not pair(2, 4.1).met
    assert pair(2, 400, lists_members=True).met


def test_the_middle_of_trials_counts() -> None:
    assert Cost.middle([Cost(1, 9), Cost(2, 3), Cost(100, 1)]) == Cost(2, 3)


def test_the_report_has_whole_tables() -> None:
    pairs = [pair(1, 2), pair(1, 3), pair(1, 30, lists_members=True)]
    found = Found("2026-01-01T00:00:00+00:00", {"cores": "2"}, "1.0", QUICK, pairs, pairs[:1])
    text = "\n\n".join(sections(found, piped))
    assert "| 2.00 × | met |" in text and "| 3.00 × | NOT MET |" in text and "| lists members |" in text
    for block in text.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) <= 1
    assert dataclasses.asdict(found)["pairs"]


def test_operations_have_names_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """By which the command takes them, and which its help tells."""
    names = [each.key for each in OPERATIONS]
    assert len(set(names)) == len(names)
    with pytest.raises(SystemExit, match="0"):
        main(["big-room", "--help"])
    told = "".join(capsys.readouterr().out.split())  # which is wrapped at hyphens, too
    assert "example:" in told and all(name in told for name in names)
