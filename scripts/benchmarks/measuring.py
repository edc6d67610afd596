# SPDX-License-Identifier: Apache-2.0
"""What a trial cost: CPU of server and database around it, and the statistics of repeated trials."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from scripts.benchmarks.processes import Child


@dataclass(frozen=True, slots=True)
class Load:
    """What a scenario did in one trial: how often, in how many seconds, and how long each operation took."""

    operations: int
    seconds: float
    latencies: Sequence[float]


@dataclass(frozen=True, slots=True)
class Trial:
    """One measured trial. CPU is in seconds, for all operations together."""

    load: Load
    server_cpu: float
    database_cpu: float


@dataclass(frozen=True, slots=True)
class Figures:
    """A scenario's result on one server: medians over the trials, percentiles over all their operations."""

    operations: int
    rate: float
    """Operations per second."""
    p50: float
    """Milliseconds, as is p99."""
    p99: float
    server_cpu: float
    """Milliseconds of CPU per operation, as is database_cpu."""
    database_cpu: float


async def measure(run: Callable[[], Awaitable[Load]], server: Child, database: Child) -> Trial:
    """Run a trial between two moments of rest.

    Servers answer first and clean up later; waiting for rest on both sides charges that work to the
    operations that caused it, and only to them.
    """
    processes = (server, database)
    await _rest(processes)
    before = [process.cpu_seconds() for process in processes]
    load = await run()
    await _rest(processes)
    used = [process.cpu_seconds() - start for process, start in zip(processes, before, strict=True)]
    return Trial(load, *used)


async def _rest(processes: Sequence[Child], *, at_most: float = 3.0, window: float = 0.15) -> None:
    """Wait, `at_most` so long, until the processes use less than a twentieth of a core."""
    deadline = time.monotonic() + at_most
    last = sum(process.cpu_seconds() for process in processes)
    while time.monotonic() < deadline:
        await asyncio.sleep(window)
        now = sum(process.cpu_seconds() for process in processes)
        if now - last < window / 20:
            return
        last = now


def summarize(trials: Sequence[Trial]) -> Figures:
    """Put repeated trials together; medians, because a machine's other tenants spoil single trials."""
    latencies = sorted(latency for trial in trials for latency in trial.load.latencies)
    return Figures(
        operations=sum(trial.load.operations for trial in trials),
        rate=statistics.median(trial.load.operations / trial.load.seconds for trial in trials),
        p50=1000 * percentile(latencies, 50),
        p99=1000 * percentile(latencies, 99),
        server_cpu=1000 * statistics.median(trial.server_cpu / trial.load.operations for trial in trials),
        database_cpu=1000 * statistics.median(trial.database_cpu / trial.load.operations for trial in trials),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of a sorted, non-empty sequence."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


async def drive(
    clients: Sequence[Callable[[], Awaitable[object]]],
    seconds: float,
    *,
    at_least: int = 1,
    at_most: int | None = None,
) -> Load:
    """Let every client repeat its operation until time is up, one after the other each, all of them at once.

    A slow server still makes `at_least` operations (together); `at_most` ends the trial early. The rate
    counts until the last operation is answered.
    """
    latencies: list[float] = []
    started = time.perf_counter()
    deadline = started + seconds
    begun = 0

    async def repeat(operation: Callable[[], Awaitable[object]]) -> None:
        nonlocal begun
        while (at_most is None or begun < at_most) and (begun < at_least or time.perf_counter() < deadline):
            begun += 1
            before = time.perf_counter()
            await operation()
            latencies.append(time.perf_counter() - before)

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(repeat(client))
    return Load(len(latencies), time.perf_counter() - started, latencies)
