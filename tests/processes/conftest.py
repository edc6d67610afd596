# SPDX-License-Identifier: Apache-2.0
"""Processes on one database: workers of one machine, who share memory, and servers of two, who share nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.asking import Processes
from tests.serving import postgres, serving


@pytest.fixture(scope="package")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """One server with three."""
    with serving(tmp_path_factory.mktemp("workers"), workers=3) as server:
        yield Processes(server)


@pytest.fixture(scope="package")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Two servers with a process each."""
    where: Path = tmp_path_factory.mktemp("machines")
    with (
        postgres(where / "db") as url,
        serving(where / "a", database_url=url, workers=1) as first,
        first.beside(where / "b") as second,
    ):
        yield Processes(first, second)


@pytest.fixture(params=["workers", "machines"])
def processes(request: pytest.FixtureRequest) -> Processes:
    """Either."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Processes)
    return found
