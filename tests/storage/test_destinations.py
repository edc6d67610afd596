# SPDX-License-Identifier: Apache-2.0
"""How other servers are, as it is kept and told."""

from __future__ import annotations

import psycopg2
import pytest
from twisted.internet.defer import Deferred

from storage import destinations
from storage.database import Database
from storage.destinations import CHANNEL, DestinationStore, Standing, heard

A = Standing("a.test", failures=1, failing_since=5, retry_at=10)
MANY = [Standing(f"s{n:02}.test", failures=1, retry_at=10) for n in range(50)]


async def test_what_is_kept_is_told(database: Database) -> None:
    """In messages of bounded size."""
    told: list[Standing] = []
    done: Deferred[None] = Deferred()

    def hear(payload: str) -> None:
        origin, standings = heard(payload)
        assert origin == "test"
        told.extend(standings)
        if len(told) == len(MANY):
            done.callback(None)

    await database.listen(CHANNEL, hear)
    store = DestinationStore(database, "test")
    await store.put_standings(MANY)
    await done
    assert told == MANY
    assert sorted(await store.in_trouble(100), key=lambda each: each.server_name) == MANY


async def test_what_cannot_be_told_is_not_kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other processes would not know, and it would not be written again."""
    monkeypatch.setattr(destinations, "_payload", lambda *_: "x" * 8000)
    store = DestinationStore(database, "test")
    with pytest.raises(psycopg2.Error, match="payload"):
        await store.put_standings([A])
    assert await store.in_trouble(100) == []
