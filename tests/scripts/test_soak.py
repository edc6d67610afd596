# SPDX-License-Identifier: Apache-2.0
"""The soak's own promises: its line through the samples, its verdict, its report. No server runs here."""

import pytest

from scripts.benchmarks.soak.pictures import picture
from scripts.benchmarks.soak.sampling import Sample, trend

MIB = 2**20


def samples(per_minute: float) -> list[Sample]:
    """Half an hour from 100 MiB."""
    return [Sample(60.0 * minute, round((100 + per_minute * minute) * MIB)) for minute in range(31)]


@pytest.mark.parametrize(("per_minute", "flat"), [(-1.0, True), (0.1, True), (0.5, False)])
def test_growth_is_judged_by_the_line(per_minute: float, flat: bool) -> None:
    found = trend(samples(per_minute))
    assert (found.start, found.end) == pytest.approx((100 * MIB, (100 + 30 * per_minute) * MIB))
    assert found.per_hour == pytest.approx(60 * per_minute * MIB, rel=1e-6)
    assert found.flat is flat


def test_one_peak_is_no_growth() -> None:
    peaked = samples(0)
    peaked[20] = Sample(peaked[20].seconds, 160 * MIB)
    assert trend(peaked).flat


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="two samples"):
        trend([])


def test_pictures_differ_and_can_be_read() -> None:
    assert picture(3, 2, 1) != picture(3, 2, 2)
    assert picture(3, 2, 1).startswith(b"\x89PNG")
