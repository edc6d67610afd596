# SPDX-License-Identifier: Apache-2.0
"""What the whole server does when an account ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from homeserver.app.lives import Departures


@dataclass
class Service:
    """Notes whom it dropped, or fails."""

    failure: Exception | None = None
    dropped: list[tuple[str, bool]] = field(default_factory=list)

    async def depart(self, user_id: str, *, erase: bool) -> None:
        if self.failure is not None:
            raise self.failure
        self.dropped.append((user_id, erase))


async def test_what_one_service_fails_at_keeps_no_other_from_dropping_what_it_has() -> None:
    """A room that cannot be left must not keep a profile in being; the failure is told, so that it is tried again."""
    rooms, profiles = Service(ConnectionError("the rooms are away")), Service()
    account_data, keys = Service(ValueError("odd")), Service()
    departures = Departures(cast(Any, rooms), profiles, account_data, keys)
    with pytest.raises(ConnectionError):
        await departures.depart("@alice:example.org", erase=True)
    assert profiles.dropped == keys.dropped == [("@alice:example.org", True)]
    rooms.failure = account_data.failure = None
    await departures.depart("@alice:example.org", erase=True)
    assert len(rooms.dropped) == len(account_data.dropped) == 1
