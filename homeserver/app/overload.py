# SPDX-License-Identifier: Apache-2.0
"""What tells this process that it has more to do than it can, and what is then done about it: put together here.

Each process looks after itself: where several serve, each has a reactor, a pool of connections and a committer of its
own to be late with.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from prometheus_client import REGISTRY

from homeserver.app.core import Core
from homeserver.app.services import Services
from homeserver.config import Config
from homeserver.web.admission import Admission
from homeserver.web.strain import Sign, Strain

DATABASE_WAIT: Final = 0.25
"""Seconds that a statement may wait for a connection before that counts as a strain,"""
COMMIT_AGE: Final = 0.5
"""that a commit may take,"""
ROOM_QUEUE: Final = 200
"""and how much may wait to be written to one room: four times what is written at once."""
_BODIES: Final = 256 * 2**20
_PAGE: Final = resource.getpagesize()


class Overload(Struct, frozen=True):
    """One per process."""

    admission: Admission
    strain: Strain

    def start(self) -> None:
        """Begin to measure."""
        REGISTRY.register(self.admission)
        self.strain.start()

    def stop(self) -> None:
        """When no request is left."""
        self.strain.stop()


def build_overload(reactor: Any, config: Config, core: Core, services: Services) -> Overload:
    """Nothing is measured before `start`."""
    # Twice the budget, as freed memory is not at once the system's again, and what requests may bring with them.
    most_memory = resident_bytes() + 2 * int(config.memory_budget) + _BODIES

    def looked(strained: bool) -> None:
        admission.looked(
            strained,
            short_of_memory=strained and resident_bytes() > most_memory,
            database_wait=core.database.oldest_wait(),
        )

    strain = Strain(
        reactor,
        (
            Sign("database", core.database.oldest_wait, DATABASE_WAIT),
            Sign("commit", core.committer.commit_age, COMMIT_AGE),
            Sign("room", core.engine.longest_queue, ROOM_QUEUE),
        ),
        looked,
    )
    admission = Admission(
        reactor, remembered=services.accounts.authentication.remembered, figures=strain.figures
    )
    return Overload(admission, strain)


def resident_bytes() -> int:
    """The memory that this process takes."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
