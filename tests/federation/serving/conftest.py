# SPDX-License-Identifier: Apache-2.0
"""A server that is read, and two that read."""

from collections.abc import Iterator

import pytest

from storage.database import Database
from tests.federation.membership_serving.world import Visitor
from tests.federation.servers import RemoteServer
from tests.federation.serving.world import Reading
from tests.reactor import run
from tests.rooms.services_fixture import House


@pytest.fixture
def serving(database: Database) -> Iterator[Reading]:
    """Ours, in a network with `hydra.test` and `other.test`."""
    house = run(House.open(database))
    serving = Reading(database, house, RemoteServer("hydra.test"), RemoteServer("other.test"))
    yield serving
    run(serving.stop())


@pytest.fixture
def hydra(serving: Reading) -> Visitor:
    """A user of a server that is in no room yet."""
    return Visitor(serving, serving.network.servers["hydra.test"])


@pytest.fixture
def other(serving: Reading) -> Visitor:
    """Another, of another."""
    return Visitor(serving, serving.network.servers["other.test"])
