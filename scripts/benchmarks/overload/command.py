# SPDX-License-Identifier: Apache-2.0
"""The command `scripts/benchmark overload`, and its report."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Final

import orjson

from scripts.benchmarks import machine
from scripts.benchmarks.budgets import mebibytes
from scripts.benchmarks.client import Client
from scripts.benchmarks.marks import replaced
from scripts.benchmarks.measuring import percentile
from scripts.benchmarks.overload.crowd import Person, Tally, closed_loop, open_loop, together
from scripts.benchmarks.report import Renderer, aligned, piped
from scripts.benchmarks.servers import Lares
from scripts.benchmarks.world import QUICK, World

BEGIN: Final = "<!-- overload results: begin (written by scripts/benchmark overload --markdown) -->"
END: Final = "<!-- overload results: end -->"
TIMES: Final = 3.0
"""What is offered, in terms of what can be done."""
POLITE_PART: Final = 0.4
"""Of what can be done: what everybody but the greedy one asks for together."""
PEOPLE: Final = 40
ROOMS: Final = 8
LINES: Final = 4
MANY_LINES: Final = 16
GREEDY_LINES: Final = 600
"""Connections of each, of each where all are alike, and of the greedy one."""
CAPACITY_SECONDS: Final = 3.0
GOODPUT: Final = 0.7
"""The least part of what can be done that must be done under overload."""
RECOVERED: Final = 0.5
"""The least part of what could be done before that must be done at once afterwards."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """What some people asked for in a phase and what they got. Rates are per second, times in milliseconds."""

    phase: str
    people: str
    offered: float
    accepted: float
    refused: float
    p50: float | None
    p99: float | None
    server_cpu: float | None
    """Milliseconds per accepted message; None where several kinds of people share it."""

    @classmethod
    def of(cls, phase: str, people: str, tally: Tally, seconds: float, cpu: float | None) -> Row:
        """A row out of what was counted in so many seconds, for so many seconds of CPU."""
        times = sorted(tally.accepted)
        done = tally.statuses[200]
        return cls(
            phase=phase,
            people=people,
            offered=tally.offered / seconds,
            accepted=done / seconds,
            refused=(tally.statuses.total() - done) / seconds,
            p50=1000 * percentile(times, 50) if times else None,
            p99=1000 * percentile(times, 99) if times else None,
            server_cpu=None if cpu is None or not done else 1000 * cpu / done,
        )


@dataclass(frozen=True, slots=True)
class Overload:
    """One run."""

    date: str
    machine: Mapping[str, str]
    version: str
    capacity: float
    """Messages per second that people get done who wait for each answer, before and after: on average."""
    recovered: float
    """The least of those after, as a part of that before."""
    rows: Sequence[Row]
    grown_bytes: int

    @property
    def goodput(self) -> float:
        """The least part of the capacity that was done under overload."""
        phases = {row.phase for row in self.rows if row.phase.startswith(f"{TIMES:g}")}
        done = [sum(row.accepted for row in self.rows if row.phase == phase) for phase in phases]
        return min(done) / self.capacity


def main(arguments: Sequence[str], progress: Progress, say: Progress) -> int:
    """Run it; the exit status is 1 when too little is done under overload or at once afterwards."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lares-overload-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        directory.chmod(0o711)
        server = Lares(directory / "lares")
        try:
            overload = asyncio.run(_run(server, options.seconds, progress))
        finally:
            server.stop()
    say("\n\n".join(_sections(overload, aligned)))
    if options.json:
        options.json.write_bytes(orjson.dumps(dataclasses.asdict(overload), option=orjson.OPT_INDENT_2))
    if options.markdown:
        document, results = options.markdown.read_text(), "\n\n".join(_sections(overload, piped))
        options.markdown.write_text(replaced(document, BEGIN, END, results))
    return 0 if overload.goodput >= GOODPUT and overload.recovered >= RECOVERED else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark overload",
        description="Ask three times of a server what it can do, and see what it does, and for whom.",
        epilog=f"Exit status 1 when less than {GOODPUT:.0%} of it is done, or less than {RECOVERED:.0%} of that before"
        " can be done at once afterwards.",
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="N", help="of each overload (default: 10)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the results between the marks of a document"
    )
    return parser


class _Town:
    """The people, the greedy one among them, and what they do to the server."""

    def __init__(self, server: Lares, seconds: float, progress: Progress) -> None:
        self.rows: list[Row] = []
        self._server = server
        self._seconds = seconds
        self._progress = progress
        self.polite: Sequence[Person] = ()
        self.many: Sequence[Person] = ()
        self.greedy: Sequence[Person] = ()

    async def prepare(self) -> None:
        world = World(self._server.port, QUICK)
        users = await world.users(PEOPLE + 1)
        rooms = [await world.room_of(2, f"Overload {number}") for number in range(ROOMS)]
        for number, user in enumerate(users[2:], 2):
            await user.join(rooms[number % ROOMS])
        *polite, greedy = users
        self.polite = [_person(user, rooms, n, LINES) for n, user in enumerate(polite)]
        self.many = [_person(user, rooms, n, MANY_LINES) for n, user in enumerate(polite)]
        for room_id in rooms:
            await greedy.join(room_id)
        self.greedy = [_person(greedy, rooms, n, GREEDY_LINES // ROOMS) for n in range(ROOMS)]
        for person in self.everybody:
            await person.connect()

    @property
    def everybody(self) -> Sequence[Person]:
        return (*self.polite, *self.many, *self.greedy)

    async def capacity(self, phase: str) -> float:
        """Messages per second of people who wait for each answer."""
        cpu = self._server.process.cpu_seconds()
        tally, seconds = await closed_loop(self.polite, CAPACITY_SECONDS)
        used = self._server.process.cpu_seconds() - cpu
        self._add(Row.of(phase, f"{PEOPLE} people, each answer awaited", tally, seconds, used))
        return tally.statuses[200] / seconds

    async def greed(self, capacity: float) -> None:
        """The polite ones offer a part of the capacity, the greedy one the rest of three times it."""
        rates = [(person, POLITE_PART * capacity / PEOPLE) for person in self.polite]
        rates += [(person, (TIMES - POLITE_PART) * capacity / ROOMS) for person in self.greedy]
        await open_loop(rates, self._seconds)
        phase = f"{TIMES:g} times, one is greedy"
        tally = together([person.tally for person in self.polite])
        greedy = together([person.tally for person in self.greedy])
        self._add(Row.of(phase, f"{PEOPLE} polite ones", tally, self._seconds, None))
        self._add(Row.of(phase, "the greedy one", greedy, self._seconds, None))

    async def crowd(self, capacity: float) -> None:
        """All offer the same, together three times the capacity."""
        cpu = self._server.process.cpu_seconds()
        await open_loop([(person, TIMES * capacity / PEOPLE) for person in self.many], self._seconds)
        used = self._server.process.cpu_seconds() - cpu
        tally = together([person.tally for person in self.many])
        self._add(Row.of(f"{TIMES:g} times, all alike", f"{PEOPLE} people", tally, self._seconds, used))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        self._progress(f"  {row.phase}: {row.people}: {row.accepted:.0f}/s of {row.offered:.0f}/s")


def _person(user: Client, rooms: Sequence[str], number: int, lines: int) -> Person:
    return Person(f"{number}x{lines}", user, rooms[number % ROOMS], connections=lines)


async def _run(server: Lares, seconds: float, progress: Progress) -> Overload:
    town = _Town(server, seconds, progress)
    progress("making users and rooms")
    await town.prepare()
    await closed_loop(town.polite, 1.0)
    memory = server.process.resident_bytes()
    before = await town.capacity("before")
    await town.greed(before)
    between = await town.capacity("at once afterwards")
    await town.crowd(before)
    grown = server.process.resident_bytes() - memory
    after = await town.capacity("at once afterwards")
    for person in town.everybody:
        person.close()
    return Overload(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.describe(server.directory),
        version=server.version,
        capacity=fmean((before, between, after)),
        recovered=min(between, after) / before,
        rows=town.rows,
        grown_bytes=grown,
    )


_HEAD: Final = ("phase", "who", "offered/s", "accepted/s", "refused/s", "p50", "p99", "server CPU")


def _sections(overload: Overload, render: Renderer) -> list[str]:
    described = ", ".join(f"{name} {value}" for name, value in overload.machine.items())
    rows = [
        (
            row.phase,
            row.people,
            f"{row.offered:,.0f}",
            f"{row.accepted:,.0f}",
            f"{row.refused:,.0f}",
            _number(row.p50, 0),
            _number(row.p99, 0),
            _number(row.server_cpu, 2),
        )
        for row in overload.rows
    ]
    return [
        (
            f"Run of {overload.date}, version {overload.version}. Machine: {described}. Times are milliseconds"
            " from a request to its answer, of what was accepted; CPU is of the server, per accepted message. What"
            " is neither accepted nor refused was never sent: all connections of whoever offered it waited for"
            " answers."
        ),
        render(_HEAD, rows, 2),
        (
            f"Under overload at least {overload.goodput:.0%} of what can be done was done, and at once afterwards"
            f" {overload.recovered:.0%} of that before; memory grew by {mebibytes(max(0, overload.grown_bytes))}."
        ),
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
