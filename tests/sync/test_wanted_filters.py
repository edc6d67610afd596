# SPDX-License-Identifier: Apache-2.0
"""Which filters are remembered."""

from __future__ import annotations

import orjson
import pytest

from homeserver.sync.wanted_filters import WantedFilters


class Uploaded:
    """Filters by id, and how often they were asked for."""

    def __init__(self, **definitions: object) -> None:
        self.definitions = definitions
        self.asked = 0

    async def get(self, user_id: str, filter_id: str) -> str:
        self.asked += 1
        return orjson.dumps(self.definitions[filter_id]).decode()


@pytest.mark.parametrize(("senders", "asked"), [(10, 1), (10_000, 2)])
async def test_an_uploaded_filter_is_remembered_unless_it_is_large(senders: int, asked: int) -> None:
    """It is the definition that takes memory, not its id."""
    uploaded = Uploaded(f1={"room": {"timeline": {"senders": [f"@{n}:a.example" for n in range(senders)]}}})
    filters = WantedFilters(uploaded)
    for _ in range(2):
        found = await filters.find("@alice:localhost", "f1")
        assert len(found.timeline.senders or ()) == senders
    assert uploaded.asked == asked
