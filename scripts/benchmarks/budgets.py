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
    "whoami": 3,
    "send-8-rooms": 15,
    "send-one-room": 15,
    "send-one-room-10": 15,
    "fan-out-poll": 15,
    "fan-out-websocket": 15,
    "initial-sync-lazy": 10,
    "idle-sync": 8,
    "create-room": 8,
    "join": 10,
    "keys-query": 8,
    "keys-claim": 8,
    "to-device": 8,
}
"""Scenario → n, where the server may use 1/n of the CPU per operation that Synapse's uses."""

P99_DIVISORS: Final = {"call-signalling": 3}
"""Scenario → n, where the slowest of a hundred operations may take 1/n of what it takes with Synapse."""

IDLE_BYTES: Final = 90 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """One budget, and whether the run kept it."""

    name: str
    limit: str
    actual: str
    met: bool


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
    found = [verdict for verdict in verdicts if verdict is not None]
    if (server := results.server(SUBJECT)) is not None:
        found.append(
            Verdict(
                "memory at idle",
                f"< {mebibytes(IDLE_BYTES)}",
                mebibytes(server.idle_bytes),
                server.idle_bytes < IDLE_BYTES,
            )
        )
    return found


def fraction(factor: float) -> str:
    """`18.2` as `1/18.2`; a factor below one is a plain multiple, `2.5 ×`."""
    return f"1/{factor:.1f}" if factor >= 1 else f"{1 / factor:.1f} ×"


def mebibytes(count: int) -> str:
    """Bytes in MiB."""
    return f"{count / 1024 / 1024:.0f} MiB"


def _divide(theirs: Figures, ours: Figures) -> float:
    # A trial can be too short for the clock; what used nothing measurable is given the smallest figure shown.
    return theirs.server_cpu / max(ours.server_cpu, 0.001)
