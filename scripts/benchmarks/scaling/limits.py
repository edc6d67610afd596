# SPDX-License-Identifier: Apache-2.0
"""The command `scripts/benchmark limits`: what binds when load grows, measured one by one on this machine."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from scripts.benchmarks import machine, runner
from scripts.benchmarks.cluster import Cluster
from scripts.benchmarks.report import aligned, milliseconds, piped
from scripts.benchmarks.results import Results
from scripts.benchmarks.scaling import committing, listening
from scripts.benchmarks.scaling.document import update
from scripts.benchmarks.scaling.measurements import (
    Measurements,
    Operation,
    Parked,
    Worker,
    read_json,
    write_json,
)
from scripts.benchmarks.scenarios import BY_KEY
from scripts.benchmarks.scenarios.sending import TEXT
from scripts.benchmarks.servers import Homeserver, Lares
from scripts.benchmarks.world import QUICK, World

Progress = Callable[[str], None]

CONNECTIONS: Final = (1, 2, 4)
POSITIONS: Final = (1, 10, 100)
LISTENERS: Final = (0, 1, 2, 4, 8, 16, 32, 64)
OPERATIONS: Final = (
    "whoami",
    "send-8-rooms",
    "send-one-room",
    "send-one-room-10",
    "fan-out-poll",
    "fan-out-websocket",
    "initial-sync-lazy",
    "idle-sync",
    "send-and-sync",
    "messages",
    "create-room",
    "join",
    "keys-query",
    "keys-claim",
    "to-device",
)
MESSAGES: Final = 500
TITLE: Final = "limits"


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    parked: int
    rooms: int
    seconds: float
    waiting_seconds: float


FULL_SIZE: Final = Size(parked=5000, rooms=300, seconds=2.0, waiting_seconds=20.0)
QUICK_SIZE: Final = Size(parked=500, rooms=50, seconds=0.5, waiting_seconds=5.0)


def main(arguments: Sequence[str], progress: Progress, say: Progress) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark limits",
        description="Measure what binds when load grows: commits, notifications, those who wait, memory.",
    )
    parser.add_argument("--quick", action="store_true", help="smaller and shorter")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="put the databases below DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the measurements, for the model")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the tables between the marks of a document"
    )
    parser.add_argument(
        "--from", dest="from_file", type=Path, metavar="FILE", help="measure nothing, report a saved --json"
    )
    options = parser.parse_args(arguments)
    found = read_json(options.from_file) if options.from_file else _measured(options, progress)
    if options.json:
        write_json(found, options.json)
    say(tables(found, aligned))
    if options.markdown:
        update(options.markdown, TITLE, tables(found, piped))
    return 0


def _measured(options: argparse.Namespace, progress: Progress) -> Measurements:
    size = QUICK_SIZE if options.quick else FULL_SIZE
    with tempfile.TemporaryDirectory(
        prefix="lares-limits-", dir=options.directory, ignore_cleanup_errors=True
    ) as temporary:
        directory = Path(temporary)
        directory.chmod(0o711)
        return _measure(directory, size, progress)


def _measure(directory: Path, size: Size, progress: Progress) -> Measurements:
    described = machine.describe(directory)
    flush = committing.flush_time(directory)
    progress("commits through one row, and notifications")
    (directory / "skeleton").mkdir(mode=0o711)
    cluster = Cluster(directory / "skeleton")
    try:
        described["Postgres"] = cluster.version
        committing.prepare(cluster)
        commits = [
            committing.commit_rate(cluster, connections, positions, size.seconds)
            for positions in POSITIONS
            for connections in CONNECTIONS
        ]
        notifications = [committing.notify_rate(cluster, count, size.seconds) for count in LISTENERS]
    finally:
        cluster.stop()
    with runner.running({"lares": Lares}, directory, progress) as (server,):
        parked, worker, wal = asyncio.run(_waiting(server, size, progress))
    with runner.running({"lares": Lares}, directory, progress) as (server,):
        scenarios = [BY_KEY[name] for name in OPERATIONS]
        results = asyncio.run(
            runner.run(
                [server],
                scenarios,
                replace(QUICK, repeats=2, stored_messages=2000),
                storage=True,
                progress=progress,
            )
        )
    return Measurements(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=described,
        flush=flush,
        commits=commits,
        notifications=notifications,
        parked=parked,
        worker=worker,
        operations=_operations(results),
        wal_per_message=wal,
        stored_per_message=_stored(results),
    )


async def _waiting(server: Homeserver, size: Size, progress: Progress) -> tuple[list[Parked], Worker, float]:
    progress("a worker's memory and connections")
    worker = await listening.worker_costs(server, size.rooms)
    progress("write-ahead log of messages")
    wal = await listening.wal_per_message(server, lambda: _send(World(server.port, QUICK)))
    crowd = listening.Crowd(server)
    crowd.world.skip(10_000)
    parked = []
    for kind in ("long-poll", "websocket"):
        count = listening.allow_connections(size.parked)
        progress(f"{count:,} clients that wait: {kind}")
        parked.append(await crowd.park(kind, count, size.waiting_seconds))
    return parked, worker, wal


async def _send(world: World) -> int:
    """Messages of ten senders in one room, at once."""
    world.skip(20_000)
    room_id = await world.room_of(10, "Logged")
    senders = await world.users(10)

    async def speak(number: int) -> None:
        for count in range(MESSAGES // len(senders)):
            await senders[number].send(room_id, f"w{count}", TEXT)

    await asyncio.gather(*(speak(number) for number in range(len(senders))))
    return MESSAGES


def _operations(results: Results) -> dict[str, Operation]:
    found = {scenario.key: scenario.figures.get("lares") for scenario in results.scenarios}
    return {
        key: Operation(figures.server_cpu, figures.database_cpu)
        for key, figures in found.items()
        if figures is not None
    }


def _stored(results: Results) -> float:
    server = results.server("lares")
    if server is None or server.stored is None:
        raise ValueError("the bytes on disk were not measured")
    return server.stored.message


def tables(found: Measurements, render: Callable[[Sequence[str], Sequence[Sequence[str]], int], str]) -> str:
    """Everything, for a terminal or a document."""
    described = ", ".join(f"{name} {value}" for name, value in found.machine.items())
    worker = found.worker
    commits = [
        (
            str(each.connections),
            str(each.positions),
            f"{each.rate:,.0f}",
            f"{each.rate * each.positions:,.0f}",
            milliseconds(each.p50),
            milliseconds(each.p99),
            milliseconds(each.cpu),
        )
        for each in found.commits
    ]
    notifications = [
        (
            str(each.listeners),
            f"{each.rate:,.0f}",
            f"{each.rate * each.listeners:,.0f}",
            milliseconds(each.p50),
            milliseconds(each.p99),
            milliseconds(each.cpu),
        )
        for each in found.notifications
    ]
    parked = [
        (
            each.kind,
            f"{each.count:,}",
            f"{each.bytes_each / 1024:.1f} KiB",
            milliseconds(each.cpu_each),
            milliseconds(each.open_cpu),
        )
        for each in found.parked
    ]
    amounts = [
        ("memory of an idle worker", f"{worker.idle_bytes / 2**20:.0f} MiB"),
        ("memory per user who is about", f"{worker.user_bytes / 1024:.0f} KiB"),
        ("memory per room of ten members", f"{worker.room_bytes / 1024:.0f} KiB"),
        (
            "connections to Postgres per worker, idle and busy",
            f"{worker.idle_connections} and {worker.connections}",
        ),
        ("write-ahead log per message, ten senders", f"{found.wal_per_message:,.0f} bytes"),
        ("tables and indexes per message", f"{found.stored_per_message:,.0f} bytes"),
        ("8 KiB made durable by this disk", f"{milliseconds(found.flush)} ms"),
    ]
    operations = [
        (name, milliseconds(each.server), milliseconds(each.database))
        for name, each in found.operations.items()
    ]
    return "\n\n".join(
        [
            f"Run of {found.date}. Machine: {described}. Times are milliseconds.",
            render(
                ("connections", "positions", "commits/s", "positions/s", "p50", "p99", "database CPU"),
                commits,
                0,
            ),
            render(
                ("listeners", "commits/s", "deliveries/s", "all heard, p50", "p99", "database CPU"),
                notifications,
                0,
            ),
            render(("waiting", "clients", "memory each", "CPU each per second", "CPU to arrive"), parked, 1),
            render(("of a worker and the disk", ""), amounts, 1),
            render(("operation", "server CPU", "database CPU"), operations, 1),
        ]
    )
