# SPDX-License-Identifier: Apache-2.0
"""The command `scripts/benchmark federation`, and its report."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
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
from scripts.benchmarks.federation.scenarios import (
    FULL_SIZE,
    QUICK_SIZE,
    Entry,
    Intake,
    Size,
    Way,
    entry,
    intake,
    large_room,
    way,
)
from scripts.benchmarks.report import aligned, milliseconds, piped
from scripts.benchmarks.servers import Homeserver, Lares, Synapse

BEGIN: Final = "<!-- federation results: begin (written by scripts/benchmark federation --markdown) -->"
END: Final = "<!-- federation results: end -->"

INTAKE_DIVISOR: Final = 10
ENTRY_DIVISOR: Final = 4

EXAMPLES = """\
examples:
  scripts/benchmark federation --quick                     this server alone: intake and the way of a message
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
    failures: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str], progress: Progress, say: Progress) -> int:
    """Run it; the exit status."""
    options = _parser().parse_args(arguments)
    size = QUICK_SIZE if options.quick else FULL_SIZE
    names = ["lares", "other lares"]
    if options.against:
        Synapse.prepare(progress)
        names += ["synapse", "other synapse"]
    with _running(names, progress) as servers:
        results = asyncio.run(_measure(servers, size, options.scenario, progress))
    say(terminal(results))
    if options.json:
        options.json.write_bytes(orjson.dumps(dataclasses.asdict(results), option=orjson.OPT_INDENT_2))
    if options.markdown:
        options.markdown.write_text(replace_results(options.markdown.read_text(), markdown(results)))
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
        choices=["intake", "way", "entry"],
        help="only this: taking events in, a message's way, joining a large room (needs --against)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the results between the marks of a document"
    )
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a budget is not met")
    return parser


@contextmanager
def _running(names: Sequence[str], progress: Progress) -> Iterator[dict[str, Homeserver]]:
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="lares-benchmark-", ignore_cleanup_errors=True)
        directory = Path(stack.enter_context(temporary))
        directory.chmod(0o711)
        federated = certify(directory / "certificates")
        servers: dict[str, Homeserver] = {}
        for name in names:
            progress(f"Starting {name}")
            kind = Synapse if name.endswith("synapse") else Lares
            servers[name] = kind(directory / name.replace(" ", "-"), federated=federated)
            stack.callback(servers[name].stop)
        yield servers


async def _measure(
    servers: dict[str, Homeserver], size: Size, wanted: Sequence[str] | None, progress: Progress
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
    if "synapse" in servers and (not wanted or "entry" in wanted):
        host = servers["synapse"]
        room_id = await _attempt(results, progress, "a large room", partial(large_room, host, size, progress))
        # Who comes first finds the host with cold caches: that one is not counted.
        names = ("other lares", "other synapse", "lares") if room_id is not None else ()
        for already, name in enumerate(names):
            assert room_id is not None
            step = partial(entry, servers[name], host, room_id, size, already)
            joined = await _attempt(results, progress, f"joining: {name}", step)
            if joined is not None and name != "other lares":
                results.entry[name.removeprefix("other ")] = joined
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
    """(what, limit, actual, met) for whatever both were measured in."""
    verdicts = []
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
        factor = results.entry["synapse"].seconds / results.entry["lares"].seconds
        verdicts.append(
            ("time to join a large room", f"≤ 1/{ENTRY_DIVISOR}", f"1/{factor:.1f}", factor >= ENTRY_DIVISOR)
        )
    return verdicts


def terminal(results: Results) -> str:
    """Everything, for a terminal."""
    return "\n\n".join(_sections(results, aligned))


def markdown(results: Results) -> str:
    """Everything, as Markdown."""
    return "\n\n".join(_sections(results, piped))


def _sections(results: Results, render: Callable[[Any, Any, int], str]) -> list[str]:
    rows = []
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
    for kind, joined in results.entry.items():
        rows.append(
            (
                "joining a large room of Synapse's",
                kind,
                f"{joined.seconds:.2f} s",
                f"all members after {joined.complete:.2f} s",
                f"{joined.server_cpu:.2f} s CPU, {joined.database_cpu:.2f} s of the database",
            )
        )
    described = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    sections = [f"Run of {results.date}, scale {results.size}. Machine: {described}."]
    sections.append(render(("scenario", "server", "", "", "cost"), rows, 2))
    verdicts = [
        (what, limit, actual, "met" if met else "NOT MET") for what, limit, actual, met in budgets(results)
    ]
    if verdicts:
        sections.append(render(("budget beside Synapse", "limit", "actual", ""), verdicts, 1))
    sections += [f"- {what} failed: {why}" for what, why in results.failures.items()]
    return sections


def replace_results(document: str, results: str) -> str:
    """The document with other results between the marks, which are there once each."""
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"the document needs the lines {BEGIN!r} and {END!r}, once each")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{rest.split(END)[1]}"
