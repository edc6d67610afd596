# SPDX-License-Identifier: Apache-2.0
"""Who may say what of the servers of a shard."""

from __future__ import annotations

from storage.database import Database
from storage.destinations import SHARDS, DestinationStore, shard_of
from storage.outbound_shards import ShardStore

A = "a.test"
LEASE = 15


async def test_who_lost_its_shards_says_nothing_more_of_their_servers(database: Database) -> None:
    """A process that stood still while another took over would hide what that one knows to be owed."""
    destinations = DestinationStore(database, "test")
    late, holder = ShardStore(database, "late"), ShardStore(database, "holder")
    shard = shard_of(A)
    assert shard in (await late.hold(LEASE, {})).shards
    await late.hold(LEASE, {}, [(A, 30)])
    assert await destinations.behind([shard]) == [(A, 30)]
    assert shard in (await holder.hold(LEASE, {}, alone=True)).shards
    await holder.hold(LEASE, {shard: 100}, [(A, 50)], alone=True)
    assert shard not in (await late.hold(LEASE, {shard: 90}, [(A, None)])).shards
    assert await destinations.behind([shard]) == [(A, 50)]
    await late.let_go({shard: 90}, [(A, 40)], leave=True)
    assert await destinations.behind([shard]) == [(A, 50)]
    await holder.let_go({shard: 100}, [(A, 60)], leave=True)
    assert await destinations.behind([shard]) == [(A, 60)]
    assert (await late.hold(LEASE, {})).shards[shard] == 100


async def test_a_shard_that_another_process_had_is_not_held_at_once(database: Database) -> None:
    """Though it is free: who stood still meanwhile would go by what it remembers of the shard's servers. It gets it the
    next time, as it was left."""
    destinations = DestinationStore(database, "test")
    late, holder = ShardStore(database, "late"), ShardStore(database, "holder")
    shard = shard_of(A)
    await late.hold(LEASE, {})
    await late.hold(LEASE, {shard: 30}, [(A, 30)])
    await holder.hold(LEASE, {}, alone=True)
    await holder.let_go({shard: 100}, [(A, 50)], leave=True)
    held = await late.hold(LEASE, {shard: 40}, [(A, None)])
    assert (shard in held.shards, held.part) == (False, SHARDS)
    assert await destinations.behind([shard]) == [(A, 50)]
    assert (await late.hold(LEASE, {})).shards[shard] == 100


async def test_a_shard_whose_lease_lapsed_is_still_held_if_nobody_took_it(database: Database) -> None:
    """The database did not answer for a while, say: nothing was done meanwhile."""
    store, shard = ShardStore(database, "test"), shard_of(A)
    await store.hold(LEASE, {})
    await database.execute("lapse", "UPDATE outbound_shards SET until = now() - interval '1 minute'")
    assert (await store.hold(LEASE, {shard: 2**40})).shards[shard] == 2**40
