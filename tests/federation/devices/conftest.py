# SPDX-License-Identifier: Apache-2.0
"""Two servers for the tests that need both; each test has people of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.federation.devices.tracking import Pair
from tests.interop.federation.network import network


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Their logs must hold no traceback."""
    with network() as net:
        made = Pair(tmp_path_factory.mktemp("pair"), net)
        try:
            yield made
        finally:
            made.stop()
    for server in made.servers:
        assert "Traceback (most recent call last)" not in server.log(), server.log()[-12_000:]
