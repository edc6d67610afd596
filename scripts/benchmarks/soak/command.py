# SPDX-License-Identifier: Apache-2.0
"""The command `scripts/benchmark soak`, and its report."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from scripts.benchmarks import machine
from scripts.benchmarks.budgets import mebibytes
from scripts.benchmarks.client import Client
from scripts.benchmarks.marks import replaced
from scripts.benchmarks.report import aligned, piped
from scripts.benchmarks.servers import Lares
from scripts.benchmarks.soak.load import FULL_SIZE, QUICK_SIZE, Counts, Load, batched_counts
from scripts.benchmarks.soak.sampling import GROWTH_LIMIT, Sample, Trend, sample, trend
from scripts.benchmarks.world import FULL, QUICK, World

BEGIN: Final = "<!-- soak results: begin (written by scripts/benchmark soak --markdown) -->"
END: Final = "<!-- soak results: end -->"
BUDGET: Final = "16MiB"
"""Small, so that caches are full before the warm-up ends, and what grows after that should not."""
HURRY: Final = 0.2
CALM: Final = 0.1
"""The warm-up, in which caches fill and code is met for the first time, as parts of the time that is judged: first
everything is done more often, then as it is after that."""
HASTE: Final = 5.0
"""How much more often."""
WARM_UP: Final = HURRY + CALM
SAMPLE_SECONDS: Final = 10.0
ROWS: Final = 10
FAILURES: Final = 0.01
"""The part of what is done that may fail: things are given up while others still use them."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Soak:
    """One run."""

    date: str
    minutes: float
    machine: dict[str, str]
    version: str
    idle_bytes: int
    samples: list[Sample]
    caches: tuple[int, int]
    """Bytes that caches took of the budget when the warm-up ended, and at the end."""
    counts: Counts

    @property
    def failed(self) -> int:
        """Activities that failed."""
        return self.counts.failed.total()

    @property
    def served(self) -> bool:
        """Whether failures are within what a soak brings about by itself."""
        return self.failed <= FAILURES * self.counts.done.total()


def main(arguments: Sequence[str], progress: Progress, say: Progress) -> int:
    """Run it; the exit status is 1 when memory grows or requests fail."""
    options = _parser().parse_args(arguments)
    minutes = options.minutes if options.minutes is not None else 1.0 if options.quick else 30.0
    with tempfile.TemporaryDirectory(prefix="lares-soak-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        directory.chmod(0o711)
        server = Lares(directory / "lares", settings={"memory_budget": BUDGET})
        try:
            soak = asyncio.run(_run(server, minutes, options.quick, progress))
        finally:
            server.stop()
    found = trend(soak.samples)
    say("\n\n".join(_sections(soak, found, aligned)))
    if options.json:
        options.json.write_bytes(orjson.dumps(_saved(soak), option=orjson.OPT_INDENT_2))
    if options.markdown:
        document, results = options.markdown.read_text(), "\n\n".join(_sections(soak, found, piped))
        options.markdown.write_text(replaced(document, BEGIN, END, results))
    return 0 if found.flat and soak.served else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark soak",
        description="Let one server serve mixed load and see whether its memory stays what it was.",
        epilog=f"Exit status 1 when memory grows by {GROWTH_LIMIT:.0%} or more after the warm-up.",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="of load that are judged, with a warm-up before (default: 30; with --quick 1)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer clients, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save samples and counts")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="replace the results between the marks of a document"
    )
    return parser


async def _run(server: Lares, minutes: float, quick: bool, progress: Progress) -> Soak:
    described = machine.describe(server.directory)
    await asyncio.sleep(3)
    idle = server.process.resident_bytes()
    load = Load(World(server.port, QUICK if quick else FULL), QUICK_SIZE if quick else FULL_SIZE)
    progress(f"idle: {mebibytes(idle)}; making users and rooms")
    await load.prepare()
    seconds = minutes * 60
    progress(
        f"made: {mebibytes(server.process.resident_bytes())}; {WARM_UP * minutes:.1f} minutes of warm-up"
    )
    await load.run(HURRY * seconds, HASTE)
    await load.run(CALM * seconds)
    warm = await _cache_bytes(server.port)
    progress(f"warm: {mebibytes(server.process.resident_bytes())}; {minutes:g} minutes of load")
    sampling = asyncio.create_task(sample(server.process, seconds, min(SAMPLE_SECONDS, seconds / 20)))
    await load.run(seconds)
    samples = await sampling
    return Soak(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        minutes=minutes,
        machine=described,
        version=server.version,
        idle_bytes=idle,
        samples=samples,
        caches=(warm, await _cache_bytes(server.port)),
        counts=load.counts,
    )


async def _cache_bytes(port: int) -> int:
    """What caches take of the budget, by their own account."""
    client = Client("127.0.0.1", port)
    text = (await client.call("GET", "/metrics")).decode()
    client.close()
    found = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("lares_cache_bytes{")]
    if not found:
        raise ValueError("the server tells nothing of its caches")
    return round(sum(found))


def _saved(soak: Soak) -> dict[str, object]:
    samples = [dataclasses.asdict(each) for each in soak.samples]
    fields = {
        name: getattr(soak, name)
        for name in ("date", "minutes", "machine", "version", "idle_bytes", "caches")
    }
    return {**fields, "samples": samples, "done": soak.counts.done, "failed": soak.counts.failed}


def _sections(
    soak: Soak, found: Trend, render: Callable[[Sequence[str], Sequence[Sequence[str]], int], str]
) -> list[str]:
    described = ", ".join(f"{name} {value}" for name, value in soak.machine.items())
    head = (
        f"Run of {soak.date}, {soak.minutes:g} minutes after {WARM_UP * soak.minutes:g} of warm-up, version "
        f"{soak.version}, memory_budget {BUDGET}. Machine: {described}."
    )
    step = max(1, len(soak.samples) // ROWS)
    rows = [
        (f"{part[0].seconds / 60:.1f}", mebibytes(sum(each.bytes for each in part) // len(part)))
        for part in (soak.samples[at : at + step] for at in range(0, len(soak.samples), step))
    ]
    verdict = "met" if found.flat else "NOT MET"
    figures = [
        ("idle, before the first client", mebibytes(soak.idle_bytes)),
        ("when the warm-up ended", mebibytes(round(found.start))),
        ("at the end", mebibytes(round(found.end))),
        ("of these the caches, then and then", ", ".join(map(mebibytes, soak.caches))),
        ("lowest and highest", f"{mebibytes(found.lowest)}, {mebibytes(found.highest)}"),
        ("slope by least squares", f"{found.per_hour / 2**20:+.1f} MiB an hour"),
        (f"growth, limit {GROWTH_LIMIT:.0%}", f"{found.growth:+.1%}, {verdict}"),
        ("activities done, failed", f"{soak.counts.done.total():,}, {soak.failed:,}"),
    ]
    sections = [head, render(("resident memory", ""), figures, 1), render(("minute", "mean"), rows, 0)]
    sections.append(f"Done, with the warm-up: {batched_counts(soak.counts)}.")
    sections += [
        f"- {name} failed {count} times, first: {soak.counts.first_failure[name]}"
        for name, count in soak.counts.failed.items()
    ]
    return sections
