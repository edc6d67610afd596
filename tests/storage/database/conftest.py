# SPDX-License-Identifier: Apache-2.0
"""The database door knows no schema, so its tests get databases without one."""

from __future__ import annotations

import pytest


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """A database of the test's own, empty."""
    return empty_database_url
