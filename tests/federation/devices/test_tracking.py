# SPDX-License-Identifier: Apache-2.0
"""Over any history of two servers, no client holds keys that are out of date without having been told."""

from __future__ import annotations

import os
import random

import pytest

from tests.federation.devices.tracking import Pair, World

STEPS = 30
FIRST, END = map(int, os.environ.get("LARES_HISTORIES", "0-3").split("-"))
"""Seeds of the histories. More of them are tried so: LARES_HISTORIES=100-180 scripts/test tests/federation/devices"""
KINDS = (
    *("join",) * 4,
    *("leave",) * 2,
    *("gains_device",) * 2,
    *("follow",) * 3,
    "loses_device",
    "renames_device",
    "resets_identity",
    "signs_device",
)


def history(seed: int, *, with_cuts: bool) -> list[tuple[str, int, int]]:
    """What happens, to whom, in which room."""
    chance = random.Random(seed)
    steps = [(chance.choice(KINDS), chance.randrange(4), chance.randrange(2)) for _ in range(STEPS)]
    if with_cuts:
        cut, healed = sorted(chance.sample(range(STEPS), 2))
        steps.insert(healed, ("heal", 0, 0))
        steps.insert(cut, ("cut", 0, 0))
    return steps


@pytest.mark.parametrize("seed", range(FIRST, END))
@pytest.mark.parametrize("with_cuts", [False, True], ids=["together", "apart"])
def test_no_client_holds_keys_it_should_know_to_be_old(pair: Pair, seed: int, with_cuts: bool) -> None:
    world = World(pair)
    steps = history(seed, with_cuts=with_cuts)
    try:
        for step in steps:
            world.act(*step)
        world.settle()
    except AssertionError as error:
        error.add_note(f"after {steps}\nwhere these were refused: {world.refused}")
        raise
