# SPDX-License-Identifier: Apache-2.0
"""The command `scripts/benchmark two-workers`: what a second worker brings, told by CPU where cores are few.

A worker is one core's worth. Where the load generator and the database share the cores with the workers, the rate says
nothing of what two of them could do on a machine that has the cores; what they use per operation does. But CPU can only
be compared where what it depends on is alike:

- a worker that has many requests in a turn, and many events in a commit, uses less for each. So each worker has as many
  clients: two of them serve twice the people that one does, as they would if they had been added for that;
- whoever takes turns on a core with others finds its caches cold, and how cold depends on the others. So a server with
  one worker and one with two are loaded at the same time, all three workers on one core that nothing else of theirs is
  on; the load generator and the databases have the others.

Two cores give 2 · c₁ / (c₂ + c₂′) times what one gives, where c₁ is what one worker uses per operation, c₂ and c₂′ what
each of the two uses per operation of both. Whatever else the machine does, it does to all three. Each trial opens
everything anew, so that connections are divided anew. Beside it stand what the database uses, which the two share, and
how many transactions wrote something.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil
import psycopg2

from scripts.benchmarks import machine, runner
from scripts.benchmarks.client import Client, RequestFailed, next_batch
from scripts.benchmarks.measuring import Load, drive, measure
from scripts.benchmarks.report import aligned, milliseconds, piped
from scripts.benchmarks.scaling.document import update
from scripts.benchmarks.scaling.pinning import pin, workers_and_others
from scripts.benchmarks.scenarios import BY_KEY
from scripts.benchmarks.scenarios.sending import TEXT
from scripts.benchmarks.scenarios.shape import RunTrial, Scenario
from scripts.benchmarks.servers import DATABASE, Homeserver, Lares
from scripts.benchmarks.world import FULL, QUICK, Scale, World

Progress = Callable[[str], None]
TITLE: Final = "two-workers"
WORKERS: Final = 2
TRIALS: Final = 7
TRIAL_SECONDS: Final = 2.0
CROWDS: Final = 2
"""Times the people of a scenario that each worker has: enough that a worker is what they wait for."""
APART: Final = 10_000_000
"""Numbers that one crowd may give away before it meets the next one's."""
REFUSALS: Final = 4
RECOVERY_SECONDS: Final = 10.0
"""Of a scenario, trials that may fail: on a machine that others use too, a server may be too busy for a moment."""
UNPINNED: Final = (
    "This machine has one core for all, so that no process has one to itself: read it with care."
)
CLIENTS: Final = 16
ROOMS: Final = 12
MEMBERS: Final = 10


@asynccontextmanager
async def mixed(world: World) -> AsyncIterator[RunTrial]:
    """Sixteen clients of ten users: each sends into a room of twelve, follows it by sync, and at times reads."""
    rooms = [await world.room_of(MEMBERS, f"One of twelve: {number}") for number in range(ROOMS)]
    users = await world.users(MEMBERS)
    clients = [users[number % MEMBERS].twin() for number in range(CLIENTS)]
    tokens = [await world.token_of(client) for client in clients]
    draw = random.Random(1)

    async def turn(number: int) -> None:
        client, room_id = clients[number], draw.choice(rooms)
        await client.send(room_id, f"t{world.number()}", TEXT)
        tokens[number] = next_batch(await client.sync(since=tokens[number]))
        await client.call("GET", "/_matrix/client/v3/account/whoami")
        if draw.random() < 0.2:
            await _read(client, room_id)

    async def run(seconds: float) -> Load:
        return await drive([partial(turn, number) for number in range(CLIENTS)], seconds, at_least=CLIENTS)

    yield run
    for client in clients:
        client.close()


async def _read(client: Client, room_id: str) -> None:
    await client.call("GET", f"/_matrix/client/v3/rooms/{quote(room_id)}/messages?dir=b&limit=20")


MIXED: Final = Scenario("mixed", "mixed: send, sync, now and then a page; 16 clients", "turn", mixed)
SCENARIOS: Final = (
    MIXED,
    *(
        BY_KEY[name]
        for name in ("whoami", "send-8-rooms", "send-one-room-10", "fan-out-poll", "idle-sync", "messages")
    ),
)


@dataclass(frozen=True, slots=True)
class Share:
    """What one trial took per operation; CPU in milliseconds."""

    processes: tuple[float, ...]
    """CPU of each worker, the busiest first."""
    database: float
    commits: float
    """Transactions that wrote something."""
    full: float
    """The part of one core that the workers used."""
    clients: float
    """The part of the connections that the worker with most of them had."""

    @property
    def server(self) -> float:
        """CPU of all workers together."""
        return sum(self.processes)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A scenario with one worker and with two: trials of both, in pairs."""

    title: str
    trials: Sequence[tuple[Share, Share]]

    @property
    def one(self) -> Share:
        """The middle of each figure with one worker."""
        return _median([one for one, _ in self.trials])

    @property
    def two(self) -> Share:
        """The middle of each figure with two."""
        return _median([two for _, two in self.trials])

    @property
    def times(self) -> Sequence[float]:
        """Times what one worker can do, with clients divided evenly; of each pair, the lowest first."""
        return sorted(WORKERS * one.server / max(two.server, 1e-6) for one, two in self.trials)

    @property
    def even(self) -> float:
        """The middle of those."""
        return statistics.median(self.times)

    @property
    def divided(self) -> float:
        """The same as clients were divided, a worker's part of the work being its part of the clients."""
        return self.even / (WORKERS * self.two.clients)


def main(arguments: Sequence[str], progress: Progress, say: Progress) -> int:
    """Run it; returns the exit status."""
    options = _parser().parse_args(arguments)
    scale = QUICK if options.quick else FULL
    wanted = [each for each in SCENARIOS if not options.scenario or each.key in options.scenario]
    launchers: dict[str, runner.Launcher] = {"one": Lares, "two": partial(Lares, workers=WORKERS)}
    with runner.running(launchers, options.directory, progress) as (one, two):
        described = machine.describe(one.directory)
        if (cores := workers_and_others()) is None:
            progress(UNPINNED)
        else:
            pin([one, two], *cores)
        trials = options.trials or (3 if options.quick else TRIALS)
        found = asyncio.run(_compare([one, two], wanted, scale, trials, progress))
        version = one.version
    head, rows = table(found)
    about = introduction(version, described, trials, pinned=cores is not None)
    say(f"{about}\n\n{aligned(head, rows, 1)}")
    if options.markdown:
        update(options.markdown, TITLE, f"{about}\n\n{piped(head, rows, 1)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark two-workers",
        description="Compare one worker with two by their CPU, with a core to themselves where there are two.",
        epilog="example: scripts/benchmark two-workers --quick --scenario whoami --scenario mixed",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rooms, shorter and fewer trials")
    parser.add_argument("--trials", type=int, metavar="N", help=f"of each scenario (default: {TRIALS})")
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[each.key for each in SCENARIOS],
        metavar="NAME",
        help=f"only this; may be repeated: {', '.join(each.key for each in SCENARIOS)}",
    )
    parser.add_argument("--directory", type=Path, metavar="DIR", help="put the databases below DIR")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the table between the marks of a document"
    )
    return parser


async def _compare(
    servers: Sequence[Homeserver],
    scenarios: Sequence[Scenario],
    scale: Scale,
    trials: int,
    progress: Progress,
) -> list[Comparison]:
    crowds = [
        Crowd(server, [World(server.port, scale) for _ in range(workers * CROWDS)])
        for server, workers in zip(servers, (1, WORKERS), strict=True)
    ]
    found = []
    for scenario in scenarios:
        refusals = REFUSALS
        progress(scenario.titled(scale))
        pairs: list[tuple[Share, Share]] = []
        while len(pairs) < trials:
            try:
                pairs.append(await _pair(crowds, scenario, scale))
            except* RequestFailed as refused:
                refusals -= 1
                if not refusals:
                    raise
                progress(f"  a trial is repeated: {refused.exceptions[0]}")
                await asyncio.sleep(RECOVERY_SECONDS)
        comparison = Comparison(scenario.titled(scale), pairs)
        found.append(comparison)
        each = ", ".join(f"{times:.2f}" for times in comparison.times)
        progress(f"  {comparison.even:.2f} × ({each}), {comparison.divided:.2f} × as divided")
    return found


async def _pair(crowds: Sequence[Crowd], scenario: Scenario, scale: Scale) -> tuple[Share, Share]:
    together = asyncio.Barrier(len(crowds))
    async with asyncio.TaskGroup() as group:
        one, two = [group.create_task(crowd.trial(scenario, scale, together)) for crowd in crowds]
    return one.result(), two.result()


class Crowd:
    """As many times the people of a scenario as a server has workers."""

    def __init__(self, server: Homeserver, worlds: Sequence[World]) -> None:
        self._server = server
        self._worlds = worlds
        for number, world in enumerate(worlds):
            world.skip(number * APART)

    async def trial(self, scenario: Scenario, scale: Scale, together: asyncio.Barrier) -> Share:
        """One trial, opened for itself, that begins when the others are as far."""
        kept = _connections(self._server)
        async with AsyncExitStack() as stack:
            runs = [await stack.enter_async_context(scenario.open(world)) for world in self._worlds]

            async def run(seconds: float) -> Load:
                loads = await asyncio.gather(*(load(seconds) for load in runs))
                return Load(sum(each.operations for each in loads), max(each.seconds for each in loads), ())

            async def run_together() -> Load:
                await together.wait()
                return await run(min(scale.seconds, TRIAL_SECONDS))

            await run(scale.warm_up_seconds)
            return await _trial(self._server, run_together, kept)


async def _trial(
    server: Homeserver, run: Callable[[], Awaitable[Load]], kept: Mapping[int, AbstractSet[int]]
) -> Share:
    written, before = _transactions(server), server.process.cpu_by_process()
    trial = await measure(run, server.process, server.cluster.process)
    after = server.process.cpu_by_process()
    count = trial.load.operations
    used = sorted((1000 * (after[pid] - before.get(pid, 0.0)) / count for pid in after), reverse=True)
    clients = sorted(len(ports - kept.get(pid, set())) for pid, ports in _connections(server).items())
    return Share(
        processes=tuple(used[: WORKERS if len(used) > 1 else 1]),
        database=1000 * trial.database_cpu / count,
        commits=(_transactions(server) - written) / count,
        full=trial.server_cpu / trial.load.seconds,
        clients=clients[-1] / max(1, sum(clients)),
    )


def _connections(server: Homeserver) -> Mapping[int, AbstractSet[int]]:
    """The clients' ports of the connections that each process of the server has."""
    found = {}
    for pid in server.process.cpu_by_process():
        accepted = psutil.Process(pid).net_connections("tcp")
        found[pid] = {each.raddr.port for each in accepted if each.raddr and each.laddr.port == server.port}
    return found


def _transactions(server: Homeserver) -> int:
    """How many transactions of its database have ever written something."""
    connection = psycopg2.connect(server.cluster.url(DATABASE))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            row = cursor.fetchone()
    finally:
        connection.close()
    assert row is not None
    return int(row[0])


def _median(shares: Sequence[Share]) -> Share:
    middle = statistics.median
    return Share(
        tuple(middle(column) for column in zip(*(share.processes for share in shares), strict=True)),
        *(
            middle(getattr(share, name) for share in shares)
            for name in ("database", "commits", "full", "clients")
        ),
    )


def introduction(version: str, described: Mapping[str, str], trials: int, *, pinned: bool) -> str:
    """What the table is of."""
    where = "The workers had one core to themselves." if pinned else UNPINNED
    return (
        f"Version {version}; medians of {trials} trials, both servers at once. Machine: "
        f"{', '.join(f'{name} {value}' for name, value in described.items())}. {where}"
    )


def table(found: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """A row per scenario."""
    head = [
        "CPU per operation, ms",
        "one worker",
        "two: the busier",
        "the other",
        "their core full",
        "database, one",
        "database, two",
        "commits, one",
        "commits, two",
        "two evenly divided",
        "lowest and highest",
        "most clients of one",
        "as divided",
    ]
    return head, [_row(each) for each in found]


def _row(each: Comparison) -> list[str]:
    one, two = each.one, each.two
    return [
        each.title,
        milliseconds(one.processes[0]),
        *(milliseconds(used) for used in two.processes),
        f"{one.full + two.full:.0%}",
        milliseconds(one.database),
        milliseconds(two.database),
        f"{one.commits:.2f}",
        f"{two.commits:.2f}",
        f"{each.even:.2f} ×",
        f"{each.times[0]:.2f}–{each.times[-1]:.2f}",
        f"{two.clients:.0%}",
        f"{each.divided:.2f} ×",
    ]
