# SPDX-License-Identifier: Apache-2.0
"""The fixture `site`."""

from collections.abc import Iterator

import pytest

from storage.database import Database
from tests.calls.history.history_site import HistorySite
from tests.reactor import accept_leftovers, run


@pytest.fixture
def site(database: Database) -> Iterator[HistorySite]:
    """Nobody has called yet."""
    opened = HistorySite(database)
    run(opened.start())
    accept_leftovers()
    yield opened
    run(opened.stop())
