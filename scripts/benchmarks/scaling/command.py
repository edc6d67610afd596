# SPDX-License-Identifier: Apache-2.0
"""The command `scripts/benchmark model`: how many processes, cores and bytes so many users take, and what binds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from scripts.benchmarks.report import aligned, piped
from scripts.benchmarks.scaling.behaviour import Behaviour, Ground, add_flags, from_flags
from scripts.benchmarks.scaling.document import update
from scripts.benchmarks.scaling.measurements import FILE, read_json
from scripts.benchmarks.scaling.model import Plan, plan

Progress = Callable[[str], None]
USERS: Final = (10_000, 100_000, 1_000_000, 10_000_000)
TITLE: Final = "model"


def main(arguments: Sequence[str], progress: Progress, say: Progress) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark model",
        description="A model of load: what so many users need in their busiest hour, from measured costs.",
    )
    parser.add_argument("--users", action="append", type=int, metavar="N", help="may be repeated")
    parser.add_argument(
        "--measurements", type=Path, default=FILE, metavar="FILE", help="what `limits --json` wrote"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the table between the marks of a document"
    )
    add_flags(parser, Behaviour)
    add_flags(parser, Ground)
    options = parser.parse_args(arguments)
    measured = read_json(options.measurements)
    behaviour, ground = from_flags(Behaviour, options), from_flags(Ground, options)
    plans = []
    for users in options.users or USERS:
        progress(f"{users:,} users")
        plans.append(plan(users, behaviour, ground, measured))
    head, rows = table(plans)
    say(aligned(head, rows, 1))
    if options.markdown:
        update(options.markdown, TITLE, piped(head, rows, 1))
    return 0


def table(plans: Sequence[Plan]) -> tuple[list[str], list[list[str]]]:
    """A column per plan."""
    head = ["in the busiest hour", *(f"{each.users:,} users" for each in plans)]
    lines: list[tuple[str, Callable[[Plan], str]]] = [
        ("databases that share the users", lambda it: f"{it.parts:,}"),
        ("of each: messages a second", lambda it: number(it.rates.messages)),
        ("positions a second", lambda it: number(it.rates.positions)),
        ("deliveries a second", lambda it: number(it.rates.deliveries)),
        ("clients that wait", lambda it: number(it.rates.listeners)),
        ("workers", lambda it: f"{it.workers:,}"),
        ("use of each", lambda it: percent(it.worker_use)),
        ("memory of all", lambda it: f"{it.memory / 2**30:.1f} GiB"),
        ("connections to the database", lambda it: f"{it.connections:,}"),
        ("cores of the database", lambda it: f"{it.database_cores:.1f}"),
        ("commits a second", lambda it: number(it.commits.commits)),
        ("row locked", lambda it: percent(it.commits.use)),
        ("commit, p50 and p99", lambda it: _pair(it.commits.latency(50), it.commits.latency(99))),
        ("delivery, p50 and p99", lambda it: _pair(it.delivery_p50, it.delivery_p99)),
        ("write-ahead log", lambda it: f"{it.log_rate / 2**20:.2f} MiB/s"),
        ("tables and indexes", lambda it: f"{it.disk / 2**40:.2f} TiB a year"),
        ("media", lambda it: f"{it.media / 2**40:.2f} TiB a year"),
        ("used most", lambda it: f"{it.binds}, {percent(it.uses[it.binds])}"),
        ("fits", lambda it: "yes" if it.fits else "NO"),
    ]
    return head, [[name, *(show(each) for each in plans)] for name, show in lines]


def number(value: float) -> str:
    """With as many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def percent(share: float) -> str:
    """Without decimals."""
    return f"{100 * share:.0f} %"


def _pair(first: float, second: float) -> str:
    return f"{1000 * first:.1f} and {1000 * second:.1f} ms"
