# SPDX-License-Identifier: Apache-2.0
"""A serving server and two visitors."""

from collections.abc import Iterator

import pytest

from storage.database import Database
from tests.federation.membership_serving.world import Serving, Visitor
from tests.federation.servers import RemoteServer
from tests.reactor import run
from tests.rooms.services_fixture import House


@pytest.fixture
def serving(database: Database) -> Iterator[Serving]:
    """Ours, in a network with `hydra.test` and `other.test`."""
    house = run(House.open(database))
    serving = Serving(database, house, RemoteServer("hydra.test"), RemoteServer("other.test"))
    yield serving
    run(serving.stop())


@pytest.fixture
def hydra(serving: Serving) -> Visitor:
    """A user of a server that is in no room yet."""
    return Visitor(serving, serving.network.servers["hydra.test"])


@pytest.fixture
def other(serving: Serving) -> Visitor:
    """Another, of another."""
    return Visitor(serving, serving.network.servers["other.test"])
