# SPDX-License-Identifier: Apache-2.0
"""A name server, stopped after the test; and the servers of `tests/outgoing`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.federation.discovery.name_server import NameServer
from tests.outgoing.conftest import authority, make_client, serve
from tests.reactor import run

__all__ = ["authority", "make_client", "serve"]


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    """A name server that knows nothing yet."""
    name_server = NameServer()
    yield name_server
    run(name_server.stop())
