# SPDX-License-Identifier: Apache-2.0
"""What Lares may cost: limits we hold ourselves to, judged against Synapse in the same run.

Ratios of one run survive a change of machine, absolute times do not; memory hardly depends on the machine.
"""

from dataclasses import dataclass
from typing import Final

from scripts.benchmarks.measuring import Figures
from scripts.benchmarks.results import Results, ScenarioResult

SUBJECT: Final = "lares"
REFERENCE: Final = "synapse"

CPU_DIVISORS: Final = {
    "whoami": 4,
    "send-8-rooms": 30,
    "send-one-room": 30,
    "send-one-room-10": 30,
    "fan-out-poll": 25,
    "fan-out-websocket": 60,
    "initial-sync": 10,
    "initial-sync-lazy": 25,
    "idle-sync": 15,
    "send-and-sync": 25,
    "messages": 8,
    "room-state": 5,
    "create-room": 15,
    "join": 20,
    "keys-query": 8,
    "keys-claim": 8,
    "to-device": 8,
}
"""Scenario → n, where the server may use 1/n of the CPU per operation that Synapse's uses."""

DATABASE_DIVISORS: Final = {"send-8-rooms": 10, "send-one-room": 10, "send-one-room-10": 10}
"""Scenario → n, where the database may use 1/n of the CPU per operation that Synapse's database uses."""

P99_DIVISORS: Final = {"call-signalling": 3}
"""Scenario → n, where the slowest of a hundred operations may take 1/n of what it takes with Synapse."""

RATES: Final = {"send-one-room": 900, "send-one-room-10": 2000}
"""Scenario → operations per second, on a machine of two cores that does nothing else."""

QUIET_LOAD: Final = 0.5
"""A rate counts where the load before the run was below this; elsewhere it is the machine's, not the server's."""

IDLE_BYTES: Final = 70 * 1024 * 1024
MESSAGE_MULTIPLE: Final = 2.5
"""Bytes on disk per message, all indexes included, as a multiple of its JSON."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One budget, and whether the run kept it."""

    name: str
    limit: str
    actual: str
    met: bool
    counts: bool = True
    """False for a target that this run cannot judge: it is shown, and fails nothing."""


def cpu_factor(results: Results, scenario: ScenarioResult) -> float | None:
    """How many times Lares' CPU per operation Synapse used; None if one of them has no figure."""
    ours = scenario.figures.get(SUBJECT)
    theirs = results.baseline(scenario, REFERENCE)
    return None if ours is None or theirs is None else _divide(theirs, ours)


def judge_scenario(results: Results, scenario: ScenarioResult) -> Verdict | None:
    """The verdict on one scenario; None where there is no budget or nothing to compare."""
    if scenario.key in P99_DIVISORS:
        return _judge_latency(results, scenario, P99_DIVISORS[scenario.key])
    divisor = CPU_DIVISORS.get(scenario.key)
    factor = cpu_factor(results, scenario)
    if divisor is None or factor is None:
        return None
    return Verdict(f"CPU: {scenario.title}", f"≤ 1/{divisor}", fraction(factor), factor >= divisor)


def _judge_latency(results: Results, scenario: ScenarioResult, divisor: int) -> Verdict | None:
    ours, theirs = scenario.figures.get(SUBJECT), results.baseline(scenario, REFERENCE)
    if ours is None or theirs is None:
        return None
    factor = theirs.p99 / max(ours.p99, 0.001)
    return Verdict(f"p99: {scenario.title}", f"p99 ≤ 1/{divisor}", fraction(factor), factor >= divisor)


def judge(results: Results) -> list[Verdict]:
    """All verdicts of a run."""
    verdicts = [judge_scenario(results, scenario) for scenario in results.scenarios]
    return [*(verdict for verdict in verdicts if verdict is not None), *judge_beside(results)]


def judge_beside(results: Results) -> list[Verdict]:
    """The verdicts that are not a scenario's first: of the database, of rates, of memory and of the disk."""
    verdicts = [_judge_database(results, scenario) for scenario in results.scenarios]
    verdicts += [_judge_rate(results, scenario) for scenario in results.scenarios]
    found = [verdict for verdict in verdicts if verdict is not None]
    if (server := results.server(SUBJECT)) is not None:
        idle = server.idle_bytes
        found.append(
            Verdict("memory at idle", f"≤ {mebibytes(IDLE_BYTES)}", mebibytes(idle), idle <= IDLE_BYTES)
        )
        if (stored := server.stored) is not None:
            multiple = stored.message / stored.message_json
            limit, actual = f"≤ {MESSAGE_MULTIPLE:g} × its JSON", f"{multiple:.2f} ×"
            found.append(Verdict("bytes per message", limit, actual, multiple <= MESSAGE_MULTIPLE))
    return found


def _judge_database(results: Results, scenario: ScenarioResult) -> Verdict | None:
    divisor = DATABASE_DIVISORS.get(scenario.key)
    ours, theirs = scenario.figures.get(SUBJECT), results.baseline(scenario, REFERENCE)
    if divisor is None or ours is None or theirs is None:
        return None
    factor = theirs.database_cpu / max(ours.database_cpu, 0.001)
    return Verdict(
        f"CPU of the database: {scenario.title}", f"≤ 1/{divisor}", fraction(factor), factor >= divisor
    )


def _judge_rate(results: Results, scenario: ScenarioResult) -> Verdict | None:
    wanted, ours = RATES.get(scenario.key), scenario.figures.get(SUBJECT)
    if wanted is None or ours is None:
        return None
    return Verdict(
        f"rate: {scenario.title}",
        f"≥ {wanted:,}/s on a quiet machine",
        f"{ours.rate:,.0f}/s",
        ours.rate >= wanted,
        counts=_was_quiet(results),
    )


def _was_quiet(results: Results) -> bool:
    return float(results.machine.get("load before", "inf")) < QUIET_LOAD


def fraction(factor: float) -> str:
    """`18.2` as `1/18.2`; a factor below one is a plain multiple, `2.5 ×`."""
    return f"1/{factor:.1f}" if factor >= 1 else f"{1 / factor:.1f} ×"


def mebibytes(count: int) -> str:
    """Bytes in MiB."""
    return f"{count / 1024 / 1024:.0f} MiB"


def _divide(theirs: Figures, ours: Figures) -> float:
    # A trial can be too short for the clock; what used nothing measurable is given the smallest figure shown.
    return theirs.server_cpu / max(ours.server_cpu, 0.001)
