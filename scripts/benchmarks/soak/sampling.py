# SPDX-License-Identifier: Apache-2.0
"""Memory over time: samples of a running server, the line through them, and the verdict on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scripts.benchmarks.processes import Child

GROWTH_LIMIT: Final = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory of the server's processes, `seconds` after the warm-up ended."""

    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Trend:
    """The straight line nearest to the samples, by least squares."""

    start: float
    """Bytes by the line at the first sample."""
    end: float
    """Bytes by the line at the last sample."""
    per_hour: float
    lowest: int
    highest: int

    @property
    def growth(self) -> float:
        """Of the memory at the start."""
        return (self.end - self.start) / self.start

    @property
    def flat(self) -> bool:
        """Whether the growth is within the limit. Becoming smaller is no fault."""
        return self.growth < GROWTH_LIMIT


async def sample(process: Child, seconds: float, interval: float) -> list[Sample]:
    """Sample for so long; raise `ProcessFailed` should the server end."""
    started = time.monotonic()
    samples = []
    while (elapsed := time.monotonic() - started) < seconds:
        process.require_running()
        samples.append(Sample(elapsed, process.resident_bytes()))
        await asyncio.sleep(min(interval, seconds - elapsed))
    return samples


def trend(samples: Sequence[Sample]) -> Trend:
    """The trend of a soak's samples; `ValueError` when they are fewer than two."""
    if len(samples) < 2:
        raise ValueError("a trend needs two samples")
    mean_time = sum(each.seconds for each in samples) / len(samples)
    mean_bytes = sum(each.bytes for each in samples) / len(samples)
    spread = sum((each.seconds - mean_time) ** 2 for each in samples)
    slope = sum((each.seconds - mean_time) * (each.bytes - mean_bytes) for each in samples) / spread
    return Trend(
        start=mean_bytes + slope * (samples[0].seconds - mean_time),
        end=mean_bytes + slope * (samples[-1].seconds - mean_time),
        per_hour=slope * 3600,
        lowest=min(each.bytes for each in samples),
        highest=max(each.bytes for each in samples),
    )
