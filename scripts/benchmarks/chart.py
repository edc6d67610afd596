# SPDX-License-Identifier: Apache-2.0
"""The chart: per scenario a bar, as long as Synapse's CPU per operation is a multiple of Lares'.

The scale is logarithmic, because the multiples are; a tick on the bar is the budget. Colours follow the
reader's light or dark scheme, background included: a page may be dark where its reader's system is light. With
figures of one server only, bars are its CPU per operation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from scripts.benchmarks.budgets import CPU_DIVISORS, cpu_factor
from scripts.benchmarks.report import milliseconds
from scripts.benchmarks.results import Results

WIDTH: Final = 860
LABEL_WIDTH: Final = 330
BAR_WIDTH: Final = 430
ROW: Final = 30
TOP: Final = 64

STYLE: Final = """
.page { fill: #ffffff }
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.note, .axis { fill: #6e7781; font-size: 12px }
.bar { fill: #2f81b7 }
.short { fill: #b7632f }
.grid { stroke: #6e7781; stroke-opacity: .25 }
.budget { stroke: #24292f; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 }
  text { fill: #e6edf3 }
  .note, .axis { fill: #9198a1 }
  .bar { fill: #4fa3dc }
  .short { fill: #dc8a4f }
  .budget { stroke: #e6edf3 }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: what it is of, its value and the budget's on the axis, and what is written after it."""

    label: str
    value: float
    text: str
    budget: float | None = None


def draw(results: Results) -> str:
    """The chart as SVG 1.1."""
    factors = [
        Bar(scenario.title, factor, f"{factor:.1f} ×", CPU_DIVISORS.get(scenario.key))
        for scenario in results.scenarios
        if (factor := cpu_factor(results, scenario)) is not None
    ]
    if factors:
        return render(
            "How many times Lares' CPU per operation Synapse needs",
            "Logarithmic; the upright tick is the budget. Left of 1 Synapse needs less. One run, one Postgres.",
            factors,
            base=1.0,
        )
    single = [
        Bar(f"{scenario.title} ({key})", figures.server_cpu, f"{milliseconds(figures.server_cpu)} ms")
        for scenario in results.scenarios
        for key, figures in scenario.figures.items()
    ]
    return render("Server CPU per operation, milliseconds", "Logarithmic.", single)


def render(title: str, note: str, bars: Sequence[Bar], *, base: float | None = None) -> str:
    """Bars under a title, on a common logarithmic axis; they begin at `base`, or at the axis' end."""
    low, high = _decades([place for bar in bars for place in (bar.value, bar.budget) if place])

    def x(value: float) -> float:
        place = (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return LABEL_WIDTH + BAR_WIDTH * place

    height = TOP + ROW * len(bars) + 34
    bottom = TOP + ROW * len(bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="10" y="24">{escape(title)}</text>',
        f'<text class="note" x="10" y="44">{escape(note)}</text>',
    ]
    tick = low
    while tick <= high * 1.001:
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 8}" y2="{bottom}"/>'
        )
        parts.append(
            f'<text class="axis" x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
        )
        tick *= 10
    for index, bar in enumerate(bars):
        budget = None if bar.budget is None else x(bar.budget)
        parts += _bar(bar, TOP + ROW * index, x(base or low), x(bar.value), budget)
    return "\n".join([*parts, "</svg>\n"])


def _bar(bar: Bar, top: int, start: float, end: float, budget: float | None) -> list[str]:
    left, width = min(start, end), max(abs(end - start), 1)
    kept = end >= start if bar.budget is None else bar.value >= bar.budget
    kind = "bar" if kept else "short"
    parts = [
        f'<text x="{LABEL_WIDTH - 10}" y="{top + 16}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{kind}" x="{left:.1f}" y="{top + 2}" width="{width:.1f}" height="{ROW - 10}"/>',
    ]
    text_x = max(start, end)
    if budget is not None:
        parts.append(
            f'<line class="budget" x1="{budget:.1f}" x2="{budget:.1f}" y1="{top - 1}" y2="{top + ROW - 5}"/>'
        )
        text_x = max(text_x, budget)
    parts.append(f'<text x="{text_x + 6:.1f}" y="{top + 16}">{escape(bar.text)}</text>')
    return parts


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around the values, at least one decade apart."""
    if not values:
        return 1.0, 10.0
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values)))
    return low, max(high, 10 * low)
