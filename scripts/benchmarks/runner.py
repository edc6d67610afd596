# SPDX-License-Identifier: Apache-2.0
"""A whole run: servers up, scenarios in turn, the servers alternating within each, everything down again.

Alternating (A, B, A, B, …) lets both meet the same weather on a machine that is not ours alone.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from scripts.benchmarks import machine
from scripts.benchmarks.client import RequestFailed
from scripts.benchmarks.measuring import Figures, Trial, measure, summarize
from scripts.benchmarks.results import Results, ScenarioResult, ServerResult, StoredBytes
from scripts.benchmarks.scenarios.shape import RunTrial, Scenario
from scripts.benchmarks.servers import Homeserver, Progress
from scripts.benchmarks.storing import stored_bytes
from scripts.benchmarks.world import Scale, World

Launcher = Callable[[Path], Homeserver]

T = TypeVar("T")
IDLE_SECONDS = 3.0
STEP_SECONDS = 300.0
"""How long preparing a scenario or one trial may take before it counts as hanging."""
FAILURES = (RequestFailed, OSError, TimeoutError, ValueError, LookupError)


@contextmanager
def running(
    launchers: Mapping[str, Launcher], parent: Path | None, progress: Progress
) -> Iterator[list[Homeserver]]:
    """The servers, started in a temporary directory; nothing of them is left, however the run ends."""
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="lares-benchmark-", dir=parent, ignore_cleanup_errors=True)
            )
        )
        # Postgres, which may run as another user, passes through to its own directory below.
        directory.chmod(0o711)
        servers = []
        for key, launch in launchers.items():
            progress(f"Starting {key}")
            server = launch(directory / key)
            stack.callback(server.stop)
            servers.append(server)
        yield servers


async def run(
    servers: Sequence[Homeserver],
    scenarios: Sequence[Scenario],
    scale: Scale,
    *,
    storage: bool,
    progress: Progress,
) -> Results:
    """Measure everything asked for. What fails is in the results as such."""
    described = machine.describe(servers[0].directory)
    described["Postgres"] = servers[0].cluster.version
    worlds = {server.key: World(server.port, scale) for server in servers}
    await asyncio.sleep(IDLE_SECONDS)
    idle = {server.key: server.process.resident_bytes() for server in servers}
    measured = []
    for scenario in scenarios:
        title = scenario.titled(scale)
        progress(title)
        able = [server for server in servers if scenario.only in {None, server.key}]
        figures, failures = await _run_scenario(scenario, able, worlds, scale, progress)
        measured.append(
            ScenarioResult(scenario.key, title, scenario.operation, figures, failures, scenario.compared_with)
        )
    stored: dict[str, StoredBytes] = {}
    if storage:
        for server in servers:
            progress(f"bytes on disk: {server.label}")
            stored[server.key] = await stored_bytes(worlds[server.key], server)
    results = [
        ServerResult(
            key=server.key,
            label=server.label,
            version=server.version,
            start_seconds=server.start_seconds,
            idle_bytes=idle[server.key],
            peak_bytes=server.process.peak_resident_bytes(),
            stored=stored.get(server.key),
        )
        for server in servers
    ]
    return Results(datetime.now(UTC).isoformat(timespec="seconds"), scale.name, described, results, measured)


async def _run_scenario(
    scenario: Scenario,
    servers: Sequence[Homeserver],
    worlds: Mapping[str, World],
    scale: Scale,
    progress: Progress,
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Figures by server, or why there are none: a scenario failing on one server does not end the run."""
    trials: dict[str, list[Trial]] = {}
    failures: dict[str, str] = {}

    async def attempt(server: Homeserver, step: Callable[[], Awaitable[T]]) -> T | None:
        server.process.require_running()
        try:
            async with asyncio.timeout(STEP_SECONDS):
                return await step()
        except (*FAILURES, ExceptionGroup) as error:
            failures[server.key] = _first_cause(error)
            progress(f"  {server.label:8} failed: {failures[server.key]}")
            return None

    async with AsyncExitStack() as stack:
        opened: list[tuple[Homeserver, RunTrial]] = []
        for server in servers:
            opening = partial(_open, scenario, worlds[server.key], scale, stack)
            if (run_trial := await attempt(server, opening)) is not None:
                opened.append((server, run_trial))
        for _ in range(scale.repeats):
            for server, run_trial in opened:
                if server.key in failures:
                    continue
                trial = await attempt(server, partial(_measured, server, run_trial, scale))
                if trial is not None:
                    trials.setdefault(server.key, []).append(trial)
                    progress(_progress_line(server, scenario, trial))
    return {key: summarize(found) for key, found in trials.items() if key not in failures}, failures


async def _open(scenario: Scenario, world: World, scale: Scale, stack: AsyncExitStack) -> RunTrial:
    run_trial = await stack.enter_async_context(scenario.open(world))
    await run_trial(scale.warm_up_seconds)
    return run_trial


async def _measured(server: Homeserver, run_trial: RunTrial, scale: Scale) -> Trial:
    return await measure(partial(run_trial, scale.seconds), server.process, server.cluster.process)


def _progress_line(server: Homeserver, scenario: Scenario, trial: Trial) -> str:
    cpu = 1000 * trial.server_cpu / trial.load.operations
    rate = trial.load.operations / trial.load.seconds
    return f"  {server.label:8} {rate:9.1f}/s  {cpu:9.3f} ms CPU per {scenario.operation}"


def _first_cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
