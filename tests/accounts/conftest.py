# SPDX-License-Identifier: Apache-2.0
"""The fixture `accounts`: the services of one process."""

from collections.abc import Iterator

import pytest

from storage.database import Database
from tests.accounts.serving import Setting, accounts_on


@pytest.fixture
def accounts(database: Database) -> Iterator[Setting]:
    """Open registration, a clock that stands."""
    with accounts_on(database) as setting:
        yield setting
