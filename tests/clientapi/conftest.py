# SPDX-License-Identifier: Apache-2.0
"""The fixture `site`: the endpoints of accounts on a port of loopback."""

from collections.abc import Iterator

import pytest

from storage.database import Database
from tests.clientapi.account_site import CONFIG, AccountSite
from tests.reactor import accept_leftovers, run


@pytest.fixture
def site(database: Database) -> Iterator[AccountSite]:
    """Open registration, guests allowed, no rate limits."""

    async def start() -> AccountSite:
        return AccountSite(database, CONFIG, limited=False)

    started = run(start())
    accept_leftovers()
    yield started
    run(started.stop())
