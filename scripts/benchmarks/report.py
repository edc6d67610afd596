# SPDX-License-Identifier: Apache-2.0
"""The results as tables: for a terminal and for Markdown, and the part of a document between two marks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from scripts.benchmarks.budgets import (
    SUBJECT,
    Verdict,
    cpu_factor,
    fraction,
    judge,
    judge_beside,
    judge_scenario,
    mebibytes,
)
from scripts.benchmarks.marks import replaced
from scripts.benchmarks.results import Results, ScenarioResult, ServerResult

BEGIN: Final = "<!-- benchmark results: begin (written by scripts/benchmark --markdown) -->"
END: Final = "<!-- benchmark results: end -->"

NEW_DOCUMENT: Final = f"""# Performance

Measured by `scripts/benchmark --against synapse`, which anyone can repeat; `scripts/benchmark --help` tells
what the scenarios are.

{BEGIN}
{END}
"""

Row = Sequence[str]
Renderer = Callable[[Row, Sequence[Row], int], str]


def terminal(results: Results) -> str:
    """Everything, for a terminal of some 150 columns."""
    return "\n\n".join(_sections(results, aligned))


def markdown(results: Results, chart: str | None = None) -> str:
    """Everything, as Markdown without a heading; `chart` is the path of an image to show first."""
    image = [f"![Synapse's CPU per operation, divided by Lares']({chart})"] if chart else []
    return "\n\n".join([*image, *_sections(results, piped)])


def update_document(path: Path, results: str) -> None:
    """Replace the results in the document at `path`, beginning it if there is none."""
    document = path.read_text() if path.exists() else NEW_DOCUMENT
    path.write_text(replaced(document, BEGIN, END, results))


def _sections(results: Results, render: Renderer) -> list[str]:
    sections = [_introduction(results)]
    if results.scenarios:
        sections.append(render(SCENARIO_HEAD, scenario_rows(results), 2))
    sections.append(render(SERVER_HEAD, [server_row(server) for server in results.servers], 2))
    if beside := judge_beside(results):
        rows = [(each.name, each.limit, each.actual, _met(each)) for each in beside]
        sections.append(render(BESIDE_HEAD, rows, 1))
    sections += _failures(results)
    sections += _summary(judge(results))
    return sections


def _introduction(results: Results) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    return (
        f"Run of {results.date}, scale {results.scale}. Machine: {machine}. Times are"
        " milliseconds; CPU is user + system of all processes, per operation."
    )


SCENARIO_HEAD: Final = (
    "scenario",
    "server",
    "operations/s",
    "p50",
    "p99",
    "server CPU",
    "database CPU",
    "of Synapse's CPU",
    "budget",
    "",
)


def scenario_rows(results: Results) -> list[Row]:
    """A row for each scenario and server that did it."""
    rows: list[Row] = []
    for scenario in results.scenarios:
        for server in results.servers:
            if (figures := scenario.figures.get(server.key)) is None:
                continue
            rows.append(
                (
                    f"{scenario.title}, per {scenario.operation}",
                    server.label,
                    f"{figures.rate:,.0f}" if figures.rate >= 100 else f"{figures.rate:.1f}",
                    milliseconds(figures.p50),
                    milliseconds(figures.p99),
                    milliseconds(figures.server_cpu),
                    milliseconds(figures.database_cpu),
                    *(_comparison(results, scenario) if server.key == SUBJECT else ("", "", "")),
                )
            )
    return rows


def _comparison(results: Results, scenario: ScenarioResult) -> tuple[str, str, str]:
    factor = cpu_factor(results, scenario)
    verdict = judge_scenario(results, scenario)
    return (
        "" if factor is None else fraction(factor),
        "" if verdict is None else verdict.limit,
        "" if verdict is None else _met(verdict),
    )


SERVER_HEAD: Final = (
    "server",
    "version",
    "start, s",
    "memory at idle",
    "at its peak",
    "bytes per message",
    "of its JSON",
    "bytes per state change",
    "of its JSON",
)


def server_row(server: ServerResult) -> Row:
    """A server's memory and disk."""
    stored = server.stored
    return (
        server.label,
        server.version,
        f"{server.start_seconds:.1f}",
        mebibytes(server.idle_bytes),
        mebibytes(server.peak_bytes),
        *(
            ("", "", "", "")
            if stored is None
            else (
                f"{stored.message:,.0f}",
                f"{stored.message / stored.message_json:.1f} ×",
                f"{stored.state_change:,.0f}",
                f"{stored.state_change / stored.state_change_json:.1f} ×",
            )
        ),
    )


BESIDE_HEAD: Final = ("budget", "limit", "actual", "")


def _failures(results: Results) -> list[str]:
    lines = [
        f"- {scenario.title}: {server} failed: {reason}"
        for scenario in results.scenarios
        for server, reason in scenario.failures.items()
    ]
    return ["\n".join(lines)] if lines else []


def _summary(verdicts: Sequence[Verdict]) -> list[str]:
    counting = [verdict for verdict in verdicts if verdict.counts]
    if not counting:
        return []
    missed = [
        f"- {verdict.name}: {verdict.actual}, budget {verdict.limit}"
        for verdict in counting
        if not verdict.met
    ]
    head = f"Budgets met: {len(counting) - len(missed)} of {len(counting)}."
    return [head] if not missed else [head + " Not met:", "\n".join(missed)]


def _met(verdict: Verdict) -> str:
    if not verdict.counts:
        return "met" if verdict.met else "machine not quiet"
    return "met" if verdict.met else "NOT MET"


def milliseconds(value: float) -> str:
    """Three significant digits where they matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def aligned(head: Row, rows: Sequence[Row], left: int) -> str:
    """A table of padded columns; the first `left` columns are text, the others are figures."""
    used = [column for column in range(len(head)) if any(row[column] for row in rows)]
    lines = [[row[column] for column in used] for row in (head, *rows)]
    widths = [max(len(line[position]) for line in lines) for position in range(len(used))]
    aligners = [str.ljust if column < left else str.rjust for column in used]
    padded = [
        "  ".join(
            align(cell, width) for align, cell, width in zip(aligners, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([padded[0], "-" * max(map(len, padded)), *padded[1:]])


def piped(head: Row, rows: Sequence[Row], left: int) -> str:
    """The same table in Markdown."""
    used = [column for column in range(len(head)) if any(row[column] for row in rows)]
    rules = ["---" if column < left else "---:" for column in used]
    lines = [[head[column] for column in used], rules, *([row[column] for column in used] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
