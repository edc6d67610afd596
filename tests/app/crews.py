# SPDX-License-Identifier: Apache-2.0
"""A crew of real workers that a test looks after itself, as their parent does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from homeserver.app.workers.crew import Crew
from homeserver.app.workers.listening import Listening
from homeserver.app.workers.members import Edition
from homeserver.app.workers.orders import ConfigText
from homeserver.app.workers.pulse import PATIENCE
from tests.serving import as_url, configuration, free_port
from tests.waiting import wait_until


@contextmanager
def crew_of(workers: int, directory: Path, url: str, *, patience: float = PATIENCE) -> Iterator[Crew]:
    """So many that are to serve; none of them is started yet."""
    (directory / "data").mkdir()
    listening = Listening.open([("127.0.0.1", 0)])
    settings = configuration(
        directory, port=free_port(), server_name="localhost", database_url=as_url(url), workers=workers
    )
    text = ConfigText(json.dumps(settings), "a test", str(directory))
    crew = Crew(Edition(text, workers, listening), dsn=url, seats=2 * workers, patience=patience)
    try:
        yield crew
    finally:
        crew.kill()
        crew.close()


@contextmanager
def serving_crew_of(workers: int, directory: Path, url: str, *, patience: float = PATIENCE) -> Iterator[Crew]:
    """So many that serve."""
    with crew_of(workers, directory, url, patience=patience) as crew:
        advance(crew, lambda: crew.opened)
        yield crew


def advance(crew: Crew, reached: Callable[[], bool], *, begin: float = 0.0, pace: float = 0.0) -> float:
    """Look after the workers as their parent does, until something is so.

    `begin`: by how many seconds its clock is ahead of the machine's; gives what it is in the end. With a `pace` the
    clock goes by so many seconds with each look, and not by itself.
    """
    ahead, began = begin, time.monotonic()

    def step() -> bool:
        nonlocal ahead
        ahead += pace
        crew.advance((began if pace else time.monotonic()) + ahead)
        assert crew.failure is None, crew.failure
        return reached()

    wait_until(step, "the crew has got there")
    return ahead
