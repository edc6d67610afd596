# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.costs`: what operations cost now, beside what was recorded; `--record` replaces that.

Run it with the environment's Python from the checkout: `.venv/bin/python -m tests.costs --record`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict

from tests.costs.baselines import VERSION, Baselines
from tests.costs.bench import NAMES as COUNTS
from tests.costs.bench import Cost
from tests.costs.measuring import NAMES, measuring

_SHOWN = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    wanted = options.only or ([options.functions] if options.functions else list(NAMES))
    if unknown := set(wanted) - set(NAMES):
        sys.exit(f"no operation {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if options.runs:
        return _spread(wanted, options.runs)
    baselines = Baselines.read()
    titles = [count.replace("database_", "db_") for count in COUNTS]
    print(" " * 28 + "".join(f"{title:>14}" for title in titles))
    status = 0
    with measuring() as found:
        for name in wanted:
            measured = found.of(name) if len(wanted) == len(NAMES) else found.again(name)
            print(
                f"{name:28}{''.join(f'{value:14,}' for value in asdict(measured.cost).values())}", flush=True
            )
            status |= _judged(baselines, name, measured.cost)
            if options.functions:
                for function, calls in measured.functions.most_common(_SHOWN):
                    print(f"  {calls:8,}  {function}")
            if options.record:
                baselines.record(name, measured.cost)
    if not options.record:
        return status
    baselines.keep_only(NAMES)
    baselines.write()
    print(f"recorded for Python {VERSION}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.costs", description="Count what operations cost.")
    parser.add_argument("--record", action="store_true", help="replace what is recorded for this Python")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only this operation; may be repeated"
    )
    parser.add_argument("--functions", metavar="NAME", help="count one operation, function by function")
    parser.add_argument(
        "--runs", type=int, metavar="N", help="measure anew N times and tell how far counts vary"
    )
    return parser


def _judged(baselines: Baselines, name: str, cost: Cost) -> int:
    try:
        judgement = baselines.judge(name, cost)
    except KeyError:
        print("  was never recorded")
        return 1
    for word, differences in (("MORE", judgement.dearer), ("less", judgement.cheaper)):
        for difference in differences:
            print(f"  {word}: {difference}")
    return 1 if judgement.dearer else 0


def _spread(names: Sequence[str], runs: int) -> int:
    """Whole runs with servers of their own; per operation the range of its calls and of what else moved."""
    found: dict[str, list[Cost]] = {name: [] for name in names}
    for run in range(runs):
        print(f"run {run + 1} of {runs}", file=sys.stderr, flush=True)
        with measuring() as measured:
            for name in names:
                found[name].append(measured.of(name).cost)
    for name, costs in found.items():
        ranges = []
        for count in COUNTS:
            values = sorted(asdict(cost)[count] for cost in costs)
            if values[0] != values[-1]:
                middle = values[len(values) // 2] or 1
                ranges.append(
                    f"{count} {values[0]:,}–{values[-1]:,} ({100 * (values[-1] - values[0]) / middle:.1f} %)"
                )
        print(f"{name:28}{'; '.join(ranges) or 'all alike'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
