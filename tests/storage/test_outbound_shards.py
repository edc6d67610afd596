# SPDX-License-Identifier: Apache-2.0
"""Who may say what of the servers of a shard."""

from __future__ import annotations

from storage.database import Database
from storage.destinations import DestinationStore, shard_of
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
