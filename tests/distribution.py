# SPDX-License-Identifier: Apache-2.0
"""Which tests go to one worker of pytest-xdist together, and in which order all of them are begun.

Owns the units of work and their order, for runs with `--numprocesses` and, for the order alone, without. What is in a
unit shares its servers: those of session and package fixtures are started once per worker that needs them, and a
package's end with the last of its tests in a row. Any other file is a unit by itself.

A second run, `--workers 3`, has the same servers with several processes each; without files on the command line it is
of `SERVED_BY_SEVERAL`, which see a server only from outside and judge what it tells.

Long units come first, so that no worker is left alone with one in the end; the many short ones fill what remains.
"""

from __future__ import annotations

from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

LONGEST_FIRST: Final = (
    "tests/sync_proof",
    "tests/federation/hostile",
    "tests/app/test_stop.py",
    "tests/interop/federation",
    "tests/interop/oracle",
    "tests/interop/federation/test_netsplit.py",
    "tests/app/test_start.py",
    "tests/app/test_workers.py",
    "tests/api",
    "tests/interop",
    "tests/app/test_refusals.py",
    "tests/app/test_listeners.py",
    "tests/calls",
    "tests/costs/test_costs.py",
    "tests/protocol/test_state_resolution_properties.py",
    "tests/rooms/intake/test_orders.py",
    "tests/faults/test_two_servers.py",
    "tests/faults/test_crashes.py",
    "tests/storage/test_embedded.py",
    "tests/house",
)
"""Files, and folders whose tests are one unit; of several that hold a test the innermost counts."""

BY_FILE: Final = ("tests/calls/history", "tests/calls/rtc")
"""Folders in those above that share nothing with them."""

LAST_OF_ITS_UNIT: Final = "tests/federation/hostile/test_slow_answers.py"
"""What it judges goes on while the others run, and lasts longer than any of them."""


SERVED_BY_SEVERAL: Final = ("tests/sync_proof", "tests/api", "tests/interop/federation")
"""What is run again with several workers: the suites that see servers from outside alone."""


def unit_of(nodeid: str) -> str:
    """The unit of a test: one of `LONGEST_FIRST`, or its file."""
    file = nodeid.partition("::")[0]
    places = [place for place in (*LONGEST_FIRST, *BY_FILE) if file == place or file.startswith(f"{place}/")]
    innermost = max(places, key=len, default=file)
    return file if innermost in BY_FILE else innermost


def arrange(items: list[pytest.Item]) -> None:
    """Bring them in the order of their units; those of the same rank stay as they were."""
    ranks = {unit: rank for rank, unit in enumerate(LONGEST_FIRST)}
    items.sort(
        key=lambda item: (
            ranks.get(unit_of(item.nodeid), len(ranks)),
            item.nodeid.startswith(f"{LAST_OF_ITS_UNIT}::"),
        )
    )


class ByUnit(LoadScopeScheduling):  # type: ignore[misc]  # xdist tells no types
    """Hands whole units to workers, in the order of the tests."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False  # by their number, which says little of how long they take
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
