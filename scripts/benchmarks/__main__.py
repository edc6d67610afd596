# SPDX-License-Identifier: Apache-2.0
"""The command line of the benchmark."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from scripts.benchmarks import chart, report, runner
from scripts.benchmarks.big_room import command as big_room
from scripts.benchmarks.budgets import judge
from scripts.benchmarks.federation import command as federation
from scripts.benchmarks.overload import command as overload
from scripts.benchmarks.processes import ProcessFailed
from scripts.benchmarks.results import Results, read_json, write_json
from scripts.benchmarks.runner import Launcher
from scripts.benchmarks.scaling import command as model
from scripts.benchmarks.scaling import limits, workers
from scripts.benchmarks.scenarios import BY_KEY, SCENARIOS
from scripts.benchmarks.scenarios.shape import Scenario
from scripts.benchmarks.servers import Lares, Synapse
from scripts.benchmarks.soak import command as soak
from scripts.benchmarks.world import FULL, QUICK

STORAGE: Final = "storage"
"""The name of what is no load but is measured in its turn: see `storing`."""

Progress = Callable[[str], None]
COMMANDS: Final[dict[str, Callable[[Sequence[str], Progress, Progress], int]]] = {
    "federation": federation.main,
    "soak": soak.main,
    "limits": limits.main,
    "model": model.main,
    "two-workers": workers.main,
    "overload": overload.main,
    "big-room": big_room.main,
}
"""What has a command line of its own: the first argument names it."""

EXAMPLES = """\
examples:
  scripts/benchmark --quick                          this server alone, in two or three minutes
  scripts/benchmark --against synapse                the comparison, some fifteen minutes
  scripts/benchmark --against synapse --quick --scenario whoami,idle-sync
  scripts/benchmark --against synapse --json build/benchmark.json \\
      --svg docs/performance.svg --markdown docs/performance.md
  scripts/benchmark --from build/benchmark.json --svg docs/performance.svg
  scripts/benchmark --only synapse --quick           how the other one does, without this one
  scripts/benchmark federation --help                what federation costs
  scripts/benchmark soak --help                      whether memory stays flat under half an hour of load
  scripts/benchmark limits --help                    what binds when load grows, measured
  scripts/benchmark model --users 100000             what so many users need, by a model on those measurements
  scripts/benchmark two-workers --help               what a second worker brings, by the CPU of both
  scripts/benchmark overload --help                  what is done when three times that is asked for
  scripts/benchmark big-room --help                  whether ten thousand members cost what a hundred do

Both servers run on Postgres clusters of their own with the same binaries and full durability. The machine
should be quiet; the load generator runs on it too, its CPU is not counted. Everything started is ended and
every temporary file removed when the run ends or is broken off.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and (command := COMMANDS.get(given[0])) is not None:
        for signal_number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(signal_number, _interrupted)
        return command(given[1:], _progress, print)
    options = _parser().parse_args(arguments)
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.key:20} {scenario.titled(FULL)}")
        print(f"{STORAGE:20} bytes on disk per message and per state change")
        return 0
    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, _interrupted)
    try:
        results = read_json(options.from_file) if options.from_file else _measure(options)
    except KeyboardInterrupt:
        _progress("Broken off; everything started has been ended.")
        return 130
    except ProcessFailed as error:
        _progress(str(error))
        return 1
    _write(results, options)
    failed = any(scenario.failures for scenario in results.scenarios)
    missed = options.check and not all(verdict.met for verdict in judge(results) if verdict.counts)
    return 1 if failed or missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark",
        description="Measure this homeserver through its client-server API, alone or beside Synapse.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--against", choices=["synapse"], help="measure this server too, installed from PyPI on first use"
    )
    which.add_argument("--only", choices=["lares", "synapse"], help="measure just this one")
    which.add_argument(
        "--from", dest="from_file", type=Path, metavar="FILE", help="measure nothing, report a saved --json"
    )
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME[,NAME…]",
        help="only these; see --list",
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    parser.add_argument(
        "--quick", action="store_true", help="smaller, shorter, once: orders of magnitude, not figures"
    )
    parser.add_argument(
        "--repeats", type=int, metavar="N", help="trials per scenario and server, of which the median"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="worker processes of this server (default: 1)"
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="put the databases below DIR (default: temporary)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the chart")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the results between the marks of a document"
    )
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a budget is not met")
    return parser


def _measure(options: argparse.Namespace) -> Results:
    scale = QUICK if options.quick else FULL
    if options.repeats is not None:
        scale = scale.repeated(options.repeats)
    names = [name for given in options.scenario for name in given.split(",")]
    scenarios = _selected(names)
    keys = [options.only] if options.only else ["lares", *([options.against] if options.against else [])]
    if "synapse" in keys:
        Synapse.prepare(_progress)
    launchers: dict[str, Launcher] = {"lares": partial(Lares, workers=options.workers), "synapse": Synapse}
    with runner.running({key: launchers[key] for key in keys}, options.directory, _progress) as servers:
        return asyncio.run(
            runner.run(servers, scenarios, scale, storage=not names or STORAGE in names, progress=_progress)
        )


def _selected(names: Sequence[str]) -> Sequence[Scenario]:
    """The named scenarios, and those they are compared with; all if none is named."""
    if not names:
        return SCENARIOS
    if unknown := set(names) - set(BY_KEY) - {STORAGE}:
        raise SystemExit(f"scripts/benchmark: no scenario {', '.join(sorted(unknown))}; see --list")
    wanted = {*names} | {BY_KEY[name].compared_with for name in names if name in BY_KEY}
    return [scenario for scenario in SCENARIOS if scenario.key in wanted]


def _write(results: Results, options: argparse.Namespace) -> None:
    print(report.terminal(results))
    for path in (options.json, options.svg, options.markdown):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    if options.json:
        write_json(results, options.json)
    if options.svg:
        options.svg.write_text(chart.draw(results))
    if options.markdown:
        image = os.path.relpath(options.svg, options.markdown.parent) if options.svg else None
        report.update_document(options.markdown, report.markdown(results, image))


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
