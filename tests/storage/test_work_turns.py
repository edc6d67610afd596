# SPDX-License-Identifier: Apache-2.0
"""Whose turn recurring work is."""

from __future__ import annotations

from storage.database import Database
from storage.server_processes import ServerProcessStore
from storage.work_turns import WorkTurnStore


async def test_one_process_has_the_turn_until_it_is_over_or_gone(database: Database) -> None:
    """Of the same company or another; who is gone without a word holds nobody up."""
    here, there = WorkTurnStore(database, "here", 0), WorkTurnStore(database, "there", 0)
    living = ServerProcessStore(database, origin="a process", company="here")
    await living.renew(None, 1, 60)
    assert await here.take("sweeping", 60)
    assert not await here.take("sweeping", 60)
    assert not await there.take("sweeping", 60)
    assert await there.take("other work", 60)
    await living.leave()
    assert await there.take("sweeping", 0)
    assert await there.take("sweeping", 60)
    assert not await there.take("sweeping", 60)


async def test_who_follows_a_process_that_died_has_its_turn(database: Database) -> None:
    """At once, where the others of its company live on; and no more of it than that process had."""
    await ServerProcessStore(database, origin="a process", company="here").renew(None, 1, 60)
    first, other = (WorkTurnStore(database, "here", number) for number in (0, 1))
    assert await first.take("sweeping", 60)
    assert await other.take("other work", 60)
    follower = WorkTurnStore(database, "here", 0)
    assert not await follower.take("other work", 60)
    assert not await other.take("sweeping", 60)
    assert await follower.take("sweeping", 60)
    assert not await follower.take("sweeping", 60)
