# SPDX-License-Identifier: Apache-2.0
"""The figures of the disk are read rarely, and what was read stays where reading fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.task import Clock

from homeserver.observability.storage_figures import EVERY, StorageFigures


@dataclass(frozen=True)
class Part:
    name: str = "events"
    tables: int = 100
    indexes: int = 50
    rows: int = 3


def shown(figures: StorageFigures) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in figures.collect()
        for sample in family.samples
    }


async def test_sizes_are_read_again_after_a_while() -> None:
    clock, answers = Clock(), [[Part()], [Part(tables=200)]]

    async def read() -> Sequence[Part]:
        return answers.pop(0)  # the third time there is nothing to be had

    figures = StorageFigures(clock, read)
    assert shown(figures) == {}
    figures.start()
    first = {
        ("lares_storage_bytes", "events", "tables"): 100,
        ("lares_storage_bytes", "events", "indexes"): 50,
        ("lares_storage_rows", "events"): 3,
    }
    assert shown(figures) == first
    clock.advance(EVERY - 1)
    assert len(answers) == 1
    clock.advance(1)
    assert shown(figures) == {**first, ("lares_storage_bytes", "events", "tables"): 200}
    clock.advance(EVERY)
    assert shown(figures)[("lares_storage_bytes", "events", "tables")] == 200
    figures.stop()
