# SPDX-License-Identifier: Apache-2.0
"""The command `scripts/benchmark big-room`, and its report."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from scripts.benchmarks import machine
from scripts.benchmarks.big_room.operations import OPERATIONS, Calls, Operation
from scripts.benchmarks.big_room.places import Builder, Place
from scripts.benchmarks.measuring import Load, measure
from scripts.benchmarks.report import Renderer, aligned, milliseconds, piped
from scripts.benchmarks.scaling.document import update
from scripts.benchmarks.servers import DATABASE, SHARED_SECRET, Lares

TITLE: Final = "big-room"
LIMIT: Final = 2.0
"""Times what an operation costs in the small room."""
EVENTS: Final = 2
"""Per member."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How large the rooms are, and how often everything is done."""

    small: int
    large: int
    calls: int
    """Of a trial."""
    trials: int
    restarts: int


FULL: Final = Size(100, 10_000, calls=20, trials=5, restarts=3)
QUICK: Final = Size(20, 400, calls=6, trials=1, restarts=1)


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of CPU per operation."""

    server: float
    database: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.server + self.database

    @classmethod
    def middle(cls, costs: Sequence[Cost]) -> Cost:
        """The median of each."""
        return cls(
            statistics.median(each.server for each in costs),
            statistics.median(each.database for each in costs),
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """An operation in the small room and in the large one."""

    title: str
    lists_members: bool
    small: Cost
    large: Cost

    @property
    def ratio(self) -> float:
        """Times what it costs in the small room."""
        return self.large.total / max(self.small.total, 1e-6)

    @property
    def met(self) -> bool:
        """Whether it is within the limit, or under none."""
        return self.lists_members or self.ratio <= LIMIT


@dataclass(frozen=True, slots=True)
class Found:
    """One run."""

    date: str
    machine: Mapping[str, str]
    version: str
    size: Size
    pairs: Sequence[Pair]
    first: Sequence[Pair]
    """When nobody has been in the room since the server started."""


class Restartable(Lares):
    """A server that can be started anew on its database."""

    def restart(self) -> None:
        """End it, start it and wait until it is ready."""
        self.process.stop()
        self.process = self._start()
        self._wait_until_ready()


def main(arguments: Sequence[str], progress: Progress, say: Progress) -> int:
    """Run it; the exit status is 1 when something that lists no members is beyond the limit."""
    options = _parser().parse_args(arguments)
    wanted = [each for each in OPERATIONS if not options.operation or each.key in options.operation]
    with tempfile.TemporaryDirectory(
        prefix="lares-big-room-", dir=options.directory, ignore_cleanup_errors=True
    ) as temporary:
        directory = Path(temporary)
        directory.chmod(0o711)
        registration = {"shared_secret": SHARED_SECRET, "allow_guests": True}
        server = Restartable(directory / "lares", settings={"registration": registration})
        try:
            found = asyncio.run(_run(server, QUICK if options.quick else FULL, wanted, progress))
        finally:
            server.stop()
    say("\n\n".join(sections(found, aligned)))
    if options.json:
        options.json.write_bytes(orjson.dumps(dataclasses.asdict(found), option=orjson.OPT_INDENT_2))
    if options.markdown:
        update(options.markdown, TITLE, "\n\n".join(sections(found, piped)))
    return 0 if all(pair.met for pair in found.pairs) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark big-room",
        description=f"What operations cost in a room of {FULL.large:,} members beside one of {FULL.small:,}.",
        epilog=(
            "example: scripts/benchmark big-room --quick --operation join --operation send. "
            f"Exit status 1 when what lists no members costs more than {LIMIT:g} times as much in the large room."
        ),
    )
    parser.add_argument("--quick", action="store_true", help="smaller rooms, to see that it works")
    parser.add_argument(
        "--operation",
        action="append",
        choices=[each.key for each in OPERATIONS],
        metavar="NAME",
        help=f"only this; may be repeated: {', '.join(each.key for each in OPERATIONS)}",
    )
    parser.add_argument("--directory", type=Path, metavar="DIR", help="put the database below DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the results between the marks of a document"
    )
    return parser


async def _run(server: Restartable, size: Size, wanted: Sequence[Operation], progress: Progress) -> Found:
    described = machine.describe(server.directory)
    comparing = _Comparing(server, size, progress)
    await comparing.make()
    pairs = [await comparing.compare(each) for each in wanted]
    progress("after a start")
    return Found(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=described,
        version=server.version,
        size=size,
        pairs=pairs,
        first=[await comparing.compare_first(each) for each in wanted if each.alone],
    )


class _Comparing:
    """The rooms, and what is done in each of them in turns."""

    def __init__(self, server: Restartable, size: Size, progress: Progress) -> None:
        self._server = server
        self._size = size
        self._progress = progress
        self._builder = Builder(server)
        self._lobby: list[Place] = []
        self._places: list[Place] = []

    async def make(self) -> None:
        """The two rooms, and a little one."""
        for members in (self._size.small, self._size.large):
            self._progress(f"making a room of {members:,}")
            self._places.append(await self._builder.place(members, EVENTS * members))
        self._lobby.append(await self._builder.place(3, 6))
        # Statistics of tables are what they would be by tomorrow, and pages are written, before anything is measured.
        self._server.cluster.size_on_disk(DATABASE)

    async def compare(self, operation: Operation) -> Pair:
        """Trials in turns, after one of each that does not count."""
        costs: list[list[Cost]] = [[], []]
        for trial in range(self._size.trials + 1):
            for place, found in zip(self._places, costs, strict=True):
                cost = await self._cost(place, operation, self._size.calls if trial else 2)
                if trial:
                    found.append(cost)
        return self._pair(operation, costs)

    async def compare_first(self, operation: Operation) -> Pair:
        """Once in each room after a start; before that in the little one, for what the first of its kind costs."""
        costs: list[list[Cost]] = [[], [], []]
        for _ in range(self._size.restarts):
            self._server.restart()
            for place, found in zip((*self._lobby, *self._places), costs, strict=True):
                found.append(await self._cost(place, operation, 1))
        return self._pair(operation, costs[1:])

    async def _cost(self, place: Place, operation: Operation, count: int) -> Cost:
        async with operation.prepare(self._builder, place, count) as calls:
            trial = await measure(
                partial(_in_turn, calls), self._server.process, self._server.cluster.process
            )
        done = trial.load.operations
        return Cost(1000 * trial.server_cpu / done, 1000 * trial.database_cpu / done)

    def _pair(self, operation: Operation, costs: Sequence[Sequence[Cost]]) -> Pair:
        small, large = (Cost.middle(each) for each in costs)
        pair = Pair(operation.title, operation.lists_members, small, large)
        self._progress(f"  {pair.title}: {small.total:.2f} ms, {large.total:.2f} ms, {pair.ratio:.2f} ×")
        return pair


async def _in_turn(calls: Calls) -> Load:
    for call in calls:
        await call()
    return Load(len(calls), 0.0, ())


_HEAD: Final = ("server CPU", "database CPU", "server CPU, large", "database CPU, large", "large room", "")


def sections(found: Found, render: Renderer) -> list[str]:
    """What was found, as text and two tables."""
    size = found.size
    described = ", ".join(f"{name} {value}" for name, value in found.machine.items())
    return [
        (
            f"Run of {found.date}, version {found.version}. Machine: {described}. Milliseconds of CPU per operation in "
            f"a room of {size.small:,} members and {EVENTS * size.small:,} events, and in one of {size.large:,} and "
            f"{EVENTS * size.large:,}; medians of {size.trials} trials of {size.calls} operations, in turns."
        ),
        render(("operation", *_HEAD), [_row(pair) for pair in found.pairs], 1),
        f"For the first time after a start, when the room is not in memory; medians of {size.restarts} starts:",
        render(("first operation", *_HEAD[:-1], ""), [(*_row(pair)[:-1], "") for pair in found.first], 1),
    ]


def _row(pair: Pair) -> tuple[str, ...]:
    costs = (milliseconds(each) for cost in (pair.small, pair.large) for each in (cost.server, cost.database))
    verdict = "lists members" if pair.lists_members else "met" if pair.met else "NOT MET"
    return (pair.title, *costs, f"{pair.ratio:.2f} ×", verdict)
