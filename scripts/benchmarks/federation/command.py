# SPDX-License-Identifier: Apache-2.0
"""The command `scripts/benchmark federation`, and its report."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from scripts.benchmarks import machine
from scripts.benchmarks.federation.authority import certify
from scripts.benchmarks.federation.entry import Entry, Floor, Start, entries, large_room
from scripts.benchmarks.federation.forks import Resolution, resolution
from scripts.benchmarks.federation.scenarios import (
    FULL_SIZE,
    QUICK_SIZE,
    Intake,
    Size,
    Way,
    intake,
    way,
)
from scripts.benchmarks.marks import replaced
from scripts.benchmarks.report import aligned, milliseconds, piped
from scripts.benchmarks.servers import Homeserver, Lares, Synapse

BEGIN: Final = "<!-- federation results: begin (written by scripts/benchmark federation --markdown) -->"
END: Final = "<!-- federation results: end -->"

INTAKE_DIVISOR: Final = 10
ENTRY_DIVISOR: Final = 4
FORK_SECONDS: Final = 1.0
MOMENTS: Final = {"answered": "answered", "usable": "usable", "complete": "all members listed"}

EXAMPLES = """\
examples:
  scripts/benchmark federation --quick                     this server alone: all but joining
  scripts/benchmark federation --against synapse           the comparison, some fifteen minutes
  scripts/benchmark federation --against synapse --markdown docs/performance.md

Servers reach each other over TLS on the loopback, by certificates made for the run. The large room is Synapse's;
a second Synapse joins it beside this server.
"""

Progress = Callable[[str], None]


@dataclass(slots=True)
class Results:
    """One run; what was not measured is absent."""

    date: str
    size: str
    machine: dict[str, str]
    intake: dict[str, Intake] = field(default_factory=dict)
    way: dict[str, Way] = field(default_factory=dict)
    entry: dict[str, Entry] = field(default_factory=dict)
    floor: Floor | None = None
    resolution: Resolution | None = None
    failures: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str], progress: Progress, say: Progress) -> int:
    """Run it; the exit status."""
    options = _parser().parse_args(arguments)
    size = QUICK_SIZE if options.quick else FULL_SIZE
    names = ["lares", "other lares"]
    if options.against:
        Synapse.prepare(progress)
        names += ["synapse", "other synapse"]
    with _running(names, progress) as (servers, start):
        results = asyncio.run(_measure(servers, start, size, options.scenario, progress))
    say(terminal(results))
    if options.json:
        options.json.write_bytes(orjson.dumps(dataclasses.asdict(results), option=orjson.OPT_INDENT_2))
    if options.markdown:
        document = options.markdown.read_text()
        options.markdown.write_text(replaced(document, BEGIN, END, markdown(results)))
    missed = options.check and not all(met for *_, met in budgets(results))
    return 1 if results.failures or missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark federation",
        description="Measure what federation costs, alone or beside Synapse.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", choices=["synapse"], help="measure Synapse too")
    parser.add_argument("--quick", action="store_true", help="less of everything: orders of magnitude")
    parser.add_argument(
        "--scenario",
        action="append",
        choices=["intake", "way", "resolution", "entry"],
        help="only this: taking events in, a message's way, resolving forks of a large room, joining a large room "
        "(needs --against)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the results between the marks of a document"
    )
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a budget is not met")
    return parser


@contextmanager
def _running(names: Sequence[str], progress: Progress) -> Iterator[tuple[dict[str, Homeserver], Start]]:
    """Servers by name, and how to start another."""
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="lares-benchmark-", ignore_cleanup_errors=True)
        directory = Path(stack.enter_context(temporary))
        directory.chmod(0o711)
        federated = certify(directory / "certificates")
        numbers = itertools.count()

        @contextmanager
        def start(name: str) -> Iterator[Homeserver]:
            kind = Synapse if name.endswith("synapse") else Lares
            server = kind(directory / f"{next(numbers)}", federated=federated)
            try:
                yield server
            finally:
                server.stop()

        servers: dict[str, Homeserver] = {}
        for name in names:
            progress(f"Starting {name}")
            servers[name] = stack.enter_context(start(name))
        yield servers, start


async def _measure(
    servers: dict[str, Homeserver],
    start: Start,
    size: Size,
    wanted: Sequence[str] | None,
    progress: Progress,
) -> Results:
    results = Results(
        datetime.now(UTC).isoformat(timespec="seconds"),
        size.name,
        machine.describe(next(iter(servers.values())).directory),
    )
    kinds = [name for name in ("lares", "synapse") if name in servers]
    for kind in kinds:
        near, far = servers[kind], servers[f"other {kind}"]
        if not wanted or "intake" in wanted:
            found = await _attempt(results, progress, f"intake: {kind}", partial(intake, near, size))
            if found is not None:
                results.intake[kind] = found
        if not wanted or "way" in wanted:
            journey = await _attempt(results, progress, f"way: {kind}", partial(way, near, far, size))
            if journey is not None:
                results.way[kind] = journey
    if not wanted or "resolution" in wanted:
        forks = partial(resolution, servers["lares"], size, progress)
        results.resolution = await _attempt(results, progress, "resolution", forks)
    if "synapse" in servers and (not wanted or "entry" in wanted):
        host = servers["synapse"]
        room = await _attempt(results, progress, "a large room", partial(large_room, host, size, progress))
        if room is not None:
            step = partial(entries, kinds, start, room, size, progress)
            joined = await _attempt(results, progress, "joining a large room", step)
            if joined is not None:
                results.entry, results.floor = joined
    return results


async def _attempt(results: Results, progress: Progress, what: str, step: Callable[[], Any]) -> Any:
    progress(what)
    try:
        found = await step()
    except Exception as error:
        results.failures[what] = f"{type(error).__name__}: {error}"
        progress(f"  failed: {results.failures[what]}")
        return None
    progress(f"  {found}")
    return found


def budgets(results: Results) -> list[tuple[str, str, str, bool]]:
    """(what, limit, actual, met) for forks, and for whatever both were measured in."""
    verdicts = []
    if results.resolution is not None:
        seconds = results.resolution.ordinary.seconds
        what = f"a fork among {results.resolution.members:,} members resolved"
        verdicts.append((what, f"≤ {FORK_SECONDS:g} s", f"{seconds:.3f} s", seconds <= FORK_SECONDS))
    both = {"lares", "synapse"}
    if both <= results.intake.keys():
        factor = results.intake["synapse"].server_cpu / results.intake["lares"].server_cpu
        verdicts.append(
            ("CPU per event taken in", f"≤ 1/{INTAKE_DIVISOR}", f"1/{factor:.1f}", factor >= INTAKE_DIVISOR)
        )
    if both <= results.way.keys():
        ours, theirs = results.way["lares"].p50, results.way["synapse"].p50
        verdicts.append(("from send to arrival, p50", "≤ 1/1", f"1/{theirs / ours:.1f}", ours <= theirs))
    if both <= results.entry.keys():
        factor = _joins_faster(results, "usable")
        verdicts.append(
            (
                f"a large room joined: {MOMENTS['usable']}",
                f"≤ 1/{ENTRY_DIVISOR}",
                f"1/{factor:.1f}",
                factor >= ENTRY_DIVISOR,
            )
        )
    return verdicts


def _joins_faster(results: Results, moment: str) -> float:
    """How many times as long the other server takes."""
    return float(getattr(results.entry["synapse"], moment) / getattr(results.entry["lares"], moment))


def _beside_budgets(results: Results) -> list[tuple[str, str, str, str]]:
    """What there is no budget for, as rows beside those of `budgets`, and what could be had at most."""
    if results.floor is None or not {"lares", "synapse"} <= results.entry.keys():
        return []
    rows = []
    for moment in ("answered", "complete"):
        most = getattr(results.entry["synapse"], moment) / getattr(results.floor, moment)
        rows.append(
            (
                f"a large room joined: {MOMENTS[moment]}",
                "",
                f"1/{_joins_faster(results, moment):.1f}",
                f"no joiner below 1/{most:.1f}",
            )
        )
    return rows


def _entry_rows(results: Results) -> Iterator[tuple[str, ...]]:
    for kind, joined in results.entry.items():
        parts = f"in /sync {joined.shown_full:.2f} s, lazily {joined.shown_lazy:.2f} s; "
        parts += f"past {joined.past_read:.2f} s, heard {joined.heard:.2f} s"
        cost = f"{joined.server_cpu:.2f} s CPU, {joined.database_cpu:.2f} s of the database, for all"
        for moment, detail, spent in (("answered", "", ""), ("usable", parts, ""), ("complete", "", cost)):
            seconds = f"{getattr(joined, moment):.2f} s"
            yield f"a large room of Synapse's joined: {MOMENTS[moment]}", kind, seconds, detail, spent
    if results.floor is not None:
        for moment, name in MOMENTS.items():
            seconds = f"{getattr(results.floor, moment):.2f} s"
            yield f"a large room of Synapse's joined: {name}", "the host alone", seconds, "", ""


def _fork_rows(results: Results) -> Iterator[tuple[str, ...]]:
    if results.resolution is None:
        return
    for what, fork in (
        ("an ordinary fork", results.resolution.ordinary),
        ("all members contested", results.resolution.worst),
    ):
        cost = f"{fork.server_cpu:.3f} s CPU, {fork.database_cpu:.3f} s of the database"
        members = f"{what}, {results.resolution.members:,} members"
        yield members, "lares", f"{fork.seconds:.3f} s", "", cost


def terminal(results: Results) -> str:
    """Everything, for a terminal."""
    return "\n\n".join(_sections(results, aligned))


def markdown(results: Results) -> str:
    """Everything, as Markdown."""
    return "\n\n".join(_sections(results, piped))


def _sections(results: Results, render: Callable[[Any, Any, int], str]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for kind, taken in results.intake.items():
        rows.append(
            (
                "events taken in, full transactions",
                kind,
                f"{taken.rate:,.0f}/s",
                f"{1000 / taken.server_cpu:,.0f} per CPU second",
                f"{milliseconds(taken.server_cpu)} ms CPU, {milliseconds(taken.database_cpu)} ms of the database",
            )
        )
    for kind, journey in results.way.items():
        rows.append(
            (
                "a message from one server to another of its kind",
                kind,
                f"p50 {milliseconds(journey.p50)} ms",
                f"p99 {milliseconds(journey.p99)} ms",
                "",
            )
        )
    rows.extend(_fork_rows(results))
    rows.extend(_entry_rows(results))
    described = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    sections = [f"Run of {results.date}, scale {results.size}. Machine: {described}."]
    sections.append(render(("scenario", "server", "", "", "cost"), rows, 2))
    verdicts = [
        (what, limit, actual, "met" if met else "NOT MET") for what, limit, actual, met in budgets(results)
    ] + _beside_budgets(results)
    if verdicts:
        sections.append(render(("budget", "limit", "actual", ""), verdicts, 1))
    sections += [f"- {what} failed: {why}" for what, why in results.failures.items()]
    return sections
