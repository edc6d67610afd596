# SPDX-License-Identifier: Apache-2.0
"""The model of load: its simulation keeps to the theory, and more people never need less. No server runs here."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.benchmarks.__main__ import main
from scripts.benchmarks.report import piped
from scripts.benchmarks.scaling.behaviour import Behaviour, Ground
from scripts.benchmarks.scaling.commit_queue import MOST_POSITIONS, CommitTime, simulate
from scripts.benchmarks.scaling.document import marks, replaced
from scripts.benchmarks.scaling.limits import tables
from scripts.benchmarks.scaling.measurements import (
    CommitRate,
    Measurements,
    NotifyRate,
    Operation,
    Parked,
    Worker,
    read_json,
    write_json,
)
from scripts.benchmarks.scaling.model import Plan, plan, rates_of
from scripts.benchmarks.scaling.pinning import pin_tree, workers_and_others
from scripts.benchmarks.scaling.workers import Comparison, Share
from scripts.benchmarks.scaling.workers import table as workers_table

MIB = 2**20
OPERATIONS = (
    "messages",
    "send-and-sync",
    "initial-sync-lazy",
    "to-device",
    "keys-claim",
    "fan-out-poll",
    "fan-out-websocket",
)


def measurements() -> Measurements:
    """Round figures: a commit costs a millisecond of a worker and half of one of the database, a message a tenth."""
    operations = {name: Operation(1.0, 0.1) for name in OPERATIONS}
    operations["send-one-room"] = Operation(1.1, 0.6)
    operations["send-one-room-10"] = Operation(0.2, 0.15)
    return Measurements(
        date="2026-01-01T00:00:00+00:00",
        machine={"cores": "2"},
        flush=1.0,
        commits=[CommitRate(1, 1, 500.0, 2.0, 3.0, 0.4)],
        notifications=[NotifyRate(0, 400.0, 0.0, 0.0, 0.4), NotifyRate(1, 400.0, 0.1, 1.0, 0.5)],
        parked=[Parked("long-poll", 100, 10_000.0, 0.01, 1.0), Parked("websocket", 100, 10_000.0, 0.01, 1.0)],
        worker=Worker(70 * MIB, 10_000.0, 50_000.0, 8, 4),
        operations=operations,
        wal_per_message=1500.0,
        stored_per_message=1000.0,
    )


def planned(users: int, *, behaviour: Behaviour | None = None, ground: Ground | None = None) -> Plan:
    return plan(users, behaviour or Behaviour(), ground or Ground(), measurements(), arrivals=1000)


times = st.builds(CommitTime, fixed=st.floats(1e-4, 1e-2), each=st.floats(1e-5, 1e-3))


@settings(max_examples=15, deadline=None)
@given(time=times, workers=st.integers(1, 50), load=st.floats(0.01, 0.8))
def test_commits_keep_up_below_what_the_row_can_take(time: CommitTime, workers: int, load: float) -> None:
    """A load that single commits could carry is carried, and nobody is through before a commit's time."""
    rate = load / time.of(1)
    found = simulate(rate, workers, time, arrivals=2000)
    assert found.rate == pytest.approx(rate, rel=0.15)
    assert found.latencies[0] >= time.of(1) * 0.999999
    assert len(found.latencies) == 2000
    assert found.use <= 1 + 1e-9


@settings(max_examples=10, deadline=None)
@given(time=times, workers=st.integers(1, 4), excess=st.floats(5, 50))
def test_commits_saturate_where_full_ones_do(time: CommitTime, workers: int, excess: float) -> None:
    """However much comes, a second holds so many full commits and not one more."""
    found = simulate(excess * time.most, workers, time, arrivals=20 * MOST_POSITIONS)
    assert 0.8 * time.most <= found.rate <= time.most


def test_an_idle_stream_commits_at_once() -> None:
    """With one position in a hundred commit times, most wait for their own commit alone, as M/D/1 has it."""
    time = CommitTime(0.002, 0.0)
    found = simulate(0.01 / 0.002, 1, time)
    waited = sum(found.latencies) / len(found.latencies) - 0.002
    assert found.latency(50) == pytest.approx(0.002)
    # A position that comes during a commit waits for half of it on average, which happens to one in a hundred.
    assert waited == pytest.approx(0.01 * 0.001, rel=0.25)


def test_more_workers_make_smaller_commits_and_longer_waits() -> None:
    """The row is the same for all: under load it is divided among more commits."""
    time = CommitTime(0.002, 0.0001)
    found = [simulate(2000, workers, time) for workers in (1, 4, 16)]
    assert [each.latency(50) for each in found] == sorted(each.latency(50) for each in found)
    assert found[0].latency(50) < found[2].latency(50) / 4


@settings(max_examples=15, deadline=None)
@given(users=st.integers(1, 2_000_000), more=st.integers(1, 1_000_000))
def test_more_users_never_need_less(users: int, more: int) -> None:
    """Of everything that is bought; databases of their own may make commits quicker again."""
    few, many = planned(users), planned(users + more)
    assert few.parts <= many.parts
    assert few.disk * few.parts <= many.disk * many.parts
    assert few.log_rate * few.parts <= many.log_rate * many.parts
    if few.parts == many.parts:
        assert few.workers <= many.workers
        assert few.memory <= many.memory * 1.0001
        # Not exactly more: commits are drawn, and gather a little differently.
        assert few.database_cores <= many.database_cores * 1.1


def test_what_binds_is_what_was_made_scarce() -> None:
    """The scarcest thing is named, and the plan says that it does not suffice or divides the users."""
    assert planned(1_000_000, ground=Ground(database_cores=0.5)).parts > 1
    slow = planned(300_000, ground=Ground(flush=40, standby=40, commit_p99=150))
    assert slow.parts > 1
    assert planned(10_000).parts == 1
    crowded = planned(500_000, ground=Ground(database_connections=100))
    assert crowded.parts > 1 and crowded.fits
    assert planned(500_000, ground=Ground(database_connections=1)).binds == "connections to the database"


def test_faster_cores_need_fewer_workers() -> None:
    assert planned(1_000_000, ground=Ground(speed=2.0)).workers < planned(1_000_000).workers


def test_rates_are_those_of_the_busiest_hour() -> None:
    """86,400 active users who send one message a day send one a second, three at the peak."""
    rates = rates_of(86_400, Behaviour(daily_active=1.0, messages=1, peak=3, federated=0, receipts=0))
    assert rates.messages == rates.positions == pytest.approx(3.0)


def test_nobody_needs_one_worker() -> None:
    assert (planned(0).workers, planned(0).fits) == (1, True)


def test_measurements_survive_json(tmp_path: Path) -> None:
    write_json(measurements(), tmp_path / "measurements.json")
    assert read_json(tmp_path / "measurements.json") == measurements()


def test_measurements_are_shown_in_whole_tables() -> None:
    """Every row of a table has as many cells as its head."""
    for block in tables(measurements(), piped).split("\n\n"):
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) <= 1


def trial(*processes: float, clients: float = 1.0) -> Share:
    return Share(processes, database=0.2, commits=0.1, full=0.9, clients=clients)


def test_two_workers_are_judged_by_what_both_use() -> None:
    """Each figure is the middle of its pairs of trials; who has all the clients does all the work."""
    pairs = [(trial(1.0), trial(0.6, 0.4, clients=0.5)), (trial(1.0), trial(0.7, 0.55, clients=0.5))]
    found = Comparison("sends", [*pairs, (trial(4.0), trial(0.5, 0.3, clients=0.5))])
    assert found.times == pytest.approx([1.6, 2.0, 10.0])
    assert (found.even, found.divided) == pytest.approx((2.0, 2.0))
    lopsided = Comparison("sends", [(trial(1.0), trial(0.9, 0.1, clients=1.0))])
    assert (lopsided.even, lopsided.divided) == pytest.approx((2.0, 1.0))
    head, rows = workers_table([found, lopsided])
    assert {len(row) for row in rows} == {len(head)}


def test_processes_are_kept_on_their_cores() -> None:
    """With all their threads; what this process may use is left as it was."""
    if (divided := workers_and_others()) is None:
        assert len(os.sched_getaffinity(0)) == 1
        return
    workers, others = divided
    assert len(workers) == 1 and not workers & others
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        pin_tree(child.pid, workers)
        assert os.sched_getaffinity(child.pid) == workers
        child.kill()
    assert os.sched_getaffinity(0) == workers | others


def test_the_command_writes_into_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With flags for every assumption; what stands around the table stays."""
    write_json(measurements(), tmp_path / "measurements.json")
    document = tmp_path / "scaling.md"
    document.write_text("Before.\n" + "\n".join(marks("model")) + "\nAfter.\n")
    given = ["--measurements", str(tmp_path / "measurements.json"), "--markdown", str(document)]
    assert main(["model", "--users", "1000", "--messages", "100", "--flush", "2", *given]) == 0
    text = document.read_text()
    assert text.startswith("Before.\n") and text.endswith("After.\n")
    assert "| in the busiest hour | 1,000 users |" in text
    assert "1,000 users" in capsys.readouterr().out


def test_the_measurements_in_the_tree_can_be_read() -> None:
    """They are what the model takes when it is given no others."""
    assert plan(100_000, Behaviour(), Ground(), read_json()).fits


def test_a_document_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="once each"):
        replaced("nothing", "model", "table")


def test_every_assumption_is_explained() -> None:
    for kind in (Behaviour, Ground):
        assert all(each.metadata["doc"] for each in dataclasses.fields(kind))
