# SPDX-License-Identifier: Apache-2.0
"""The command `scripts/benchmark two-workers`: what a second worker brings, told by CPU where cores are few.

A worker is one core's worth. Where the load generator and the database share the cores with the workers, the rate says
nothing of what two of them could do on a machine that has the cores; what each process uses per operation does. One
worker takes 1 / c operations per second, if c is its CPU for one; two take together 1 / max(c₁, c₂), where c₁ and c₂
are what each of them uses per operation of both. The database, which both share, is told beside it.

The same load is put on both kinds in turns; the share of the clients that each worker has is left to chance and to the
server, as in real life.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from scripts.benchmarks import runner
from scripts.benchmarks.client import Client, next_batch
from scripts.benchmarks.measuring import Load, drive, measure
from scripts.benchmarks.report import aligned, milliseconds, piped
from scripts.benchmarks.scaling.document import update
from scripts.benchmarks.scenarios import BY_KEY
from scripts.benchmarks.scenarios.sending import TEXT
from scripts.benchmarks.scenarios.shape import RunTrial, Scenario
from scripts.benchmarks.servers import Homeserver, Lares
from scripts.benchmarks.world import FULL, QUICK, Scale, World

Progress = Callable[[str], None]
TITLE: Final = "two-workers"
WORKERS: Final = 2
CLIENTS: Final = 32
ROOMS: Final = 12
MEMBERS: Final = 10


@asynccontextmanager
async def mixed(world: World) -> AsyncIterator[RunTrial]:
    """Thirty-two clients of ten users: each sends into a room of twelve, follows it by sync, and at times reads."""
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


MIXED: Final = Scenario("mixed", "mixed: send, sync, now and then a page; 32 clients", "turn", mixed)
SCENARIOS: Final = (
    MIXED,
    *(
        BY_KEY[name]
        for name in ("whoami", "send-8-rooms", "send-one-room-10", "fan-out-poll", "idle-sync", "messages")
    ),
)


@dataclass(frozen=True, slots=True)
class Share:
    """What one trial took per operation, in milliseconds of CPU."""

    processes: tuple[float, ...]
    """Of each worker, the busiest first."""
    others: float
    """Of the server's other processes."""
    database: float
    rate: float

    @property
    def capacity(self) -> float:
        """Operations per second when the busiest worker is full."""
        return 1000 / max(self.processes[0], 1e-6)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A scenario with one worker and with two: medians of their trials."""

    title: str
    one: Share
    two: Share

    @property
    def even(self) -> float:
        """Times what one worker can do, if clients were divided evenly."""
        return WORKERS * self.one.processes[0] / max(sum(self.two.processes), 1e-6)

    @property
    def divided(self) -> float:
        """The same as clients were divided."""
        return self.two.capacity / self.one.capacity


def main(arguments: Sequence[str], progress: Progress, say: Progress) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark two-workers", description="Compare one worker with two by their CPU."
    )
    parser.add_argument("--quick", action="store_true", help="shorter")
    parser.add_argument("--scenario", action="append", metavar="NAME", help="only this; may be repeated")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="put the databases below DIR")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the table between the marks of a document"
    )
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else FULL
    wanted = [each for each in SCENARIOS if not options.scenario or each.key in options.scenario]
    launchers: dict[str, runner.Launcher] = {"one": Lares, "two": partial(Lares, workers=WORKERS)}
    with runner.running(launchers, options.directory, progress) as (one, two):
        found = asyncio.run(_compare(one, two, wanted, scale, progress))
    head, rows = table(found)
    say(aligned(head, rows, 1))
    if options.markdown:
        update(options.markdown, TITLE, piped(head, rows, 1))
    return 0


async def _compare(
    one: Homeserver, two: Homeserver, scenarios: Sequence[Scenario], scale: Scale, progress: Progress
) -> list[Comparison]:
    worlds = {server.port: World(server.port, scale) for server in (one, two)}
    found = []
    for scenario in scenarios:
        progress(scenario.titled(scale))
        shares: dict[int, list[Share]] = {one.port: [], two.port: []}
        for _ in range(max(scale.repeats, 3)):
            for server in (one, two):
                # Opened for each trial, so that clients come anew and are divided anew.
                async with AsyncExitStack() as stack:
                    run = await stack.enter_async_context(scenario.open(worlds[server.port]))
                    await run(scale.warm_up_seconds)
                    shares[server.port].append(await _trial(server, partial(run, scale.seconds)))
        found.append(Comparison(scenario.titled(scale), _median(shares[one.port]), _median(shares[two.port])))
        progress(f"  {found[-1].even:.2f} × evenly divided, {found[-1].divided:.2f} × as divided")
    return found


async def _trial(server: Homeserver, run: Callable[[], Awaitable[Load]]) -> Share:
    before = server.process.cpu_by_process()
    trial = await measure(run, server.process, server.cluster.process)
    after = server.process.cpu_by_process()
    count = trial.load.operations
    used = sorted((1000 * (after[pid] - before.get(pid, 0.0)) / count for pid in after), reverse=True)
    workers = WORKERS if len(used) > 1 else 1
    return Share(
        tuple(used[:workers]),
        sum(used[workers:]),
        1000 * trial.database_cpu / count,
        count / trial.load.seconds,
    )


def _median(shares: Sequence[Share]) -> Share:
    middle = statistics.median
    columns = zip(*(share.processes for share in shares), strict=True)
    return Share(
        tuple(middle(column) for column in columns),
        middle(share.others for share in shares),
        middle(share.database for share in shares),
        middle(share.rate for share in shares),
    )


def table(found: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """A row per scenario."""
    head = [
        "CPU per operation, ms",
        "one worker",
        "two: the busier",
        "the other",
        "database, one",
        "database, two",
        "two evenly divided",
        "as divided here",
    ]
    rows = [
        [
            each.title,
            milliseconds(each.one.processes[0]),
            *(milliseconds(used) for used in each.two.processes),
            milliseconds(each.one.database),
            milliseconds(each.two.database),
            f"{each.even:.2f} ×",
            f"{each.divided:.2f} ×",
        ]
        for each in found
    ]
    return head, rows
