# SPDX-License-Identifier: Apache-2.0
"""Rooms entered by a short answer: usable at once, whole in the end, whatever happened in between."""

from __future__ import annotations

import pytest
from pyroaring import BitMap

from homeserver.rooms.arrival import IncompleteState
from homeserver.rooms.arrival.overlay import Overlay
from homeserver.rooms.engine.snapshots import checkpoint_of, state_at
from storage.database import Database
from storage.partial_rooms import Delta
from storage.state import StateStore
from tests.federation.servers import RemoteServer
from tests.rooms.arrival.arrival_fixture import Arrivals
from tests.rooms.arrival.remote_room import RemoteRoom
from tests.rooms.engine_fixture import ALICE, BOB, member
from tests.sync.sync_fixture import filtered, topic

VERSIONS = ["1", "6", "10", "11", "12"]


@pytest.fixture
def hydra() -> RemoteServer:
    return RemoteServer("hydra.test")


async def agrees(arrivals: Arrivals, database: Database, remote: RemoteRoom) -> None:
    """Head, snapshot, `current_state` and memberships say the same of the room."""
    room = await arrivals.process.engine.cache.get(remote.id)
    assert room is not None
    head = {entry.stored.ordinal for entry in room.head.state.values()}
    head |= {m.ordinal for m in room.head.members.values()}
    assert set(state_at(await StateStore(database).chain(room.key, room.head.snapshot))) == head
    rows = await database.fetch("current", "SELECT ordinal FROM current_state WHERE room = %s", (room.key,))
    assert {row[0] for row in rows} == head


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_room_is_used_and_then_known(database: Database, hydra: RemoteServer, version: str) -> None:
    """The user reads and writes at once; when the members are known, their client is told of all."""
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    await alice.sync()
    remote = RemoteRoom(hydra, version)
    users = remote.fill(5, hydra)
    before = list(remote.state.values())

    room = await arrivals.join(remote, ALICE, omit_members=True)
    assert room.head.partial_servers == frozenset({"hydra.test"})
    assert room.head.other_hosts("localhost") == {"hydra.test"}
    await alice.sync()
    assert alice.members(remote.id) == set()
    await arrivals.process.send(remote.id, ALICE, "early")
    await alice.sync()
    assert alice.bodies(remote.id) == ["early"]

    await arrivals.fill(remote, before)
    head = (await arrivals.process.engine.cache.get(remote.id)).head  # type: ignore[union-attr]
    assert head.partial_servers is None
    assert head.joined_count == 7
    await agrees(arrivals, database, remote)
    await alice.sync()
    assert {*users, hydra.user(), ALICE} == {
        key[1] for key in alice.shown(remote.id) if key[0] == "m.room.member"
    }
    assert alice.timeline(remote.id) == []
    await arrivals.process.send(remote.id, ALICE, "late")
    await alice.sync()
    assert alice.bodies(remote.id) == ["late"]


async def test_a_lazy_client_is_not_told_of_everybody(database: Database, hydra: RemoteServer) -> None:
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE, filter=filtered(state={"lazy_load_members": True}))
    remote = RemoteRoom(hydra)
    remote.send("m.room.name", {"name": "x"}, "")
    remote.fill(5, hydra)
    before = list(remote.state.values())
    await arrivals.join(remote, ALICE, omit_members=True)
    await alice.sync()
    await arrivals.fill(remote, before)
    await alice.sync()
    assert alice.members(remote.id) == {ALICE}


async def test_what_changed_meanwhile_stands(database: Database, hydra: RemoteServer) -> None:
    """State set, checkpoints written, members come and gone: all of it is above the state before the join."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, join_rule="public")
    remote.send("m.room.power_levels", {"users": {hydra.user(): 100, ALICE: 100}}, "")
    gone, banned, *others = remote.fill(6, hydra)
    before = list(remote.state.values())
    await arrivals.join(remote, ALICE, omit_members=True)
    process = arrivals.process
    for number in range(30):
        await process.write(remote.id, topic(f"topic {number}"))
    await process.write(remote.id, member(banned, "ban", ALICE))
    await process.write(remote.id, member(gone, "ban", ALICE))
    await process.write(remote.id, member(gone, "leave", ALICE))
    await process.write(remote.id, member(BOB, "join"))
    await arrivals.fill(remote, before)
    room = await process.engine.cache.get(remote.id)
    assert room is not None
    assert room.head.content("m.room.topic") == {"topic": "topic 29"}
    assert (room.head.membership(banned), room.head.membership(gone)) == ("ban", "leave")
    assert {user for user in others if room.head.is_joined(user)} == set(others)
    assert room.head.joined_count == len(others) + 3
    await agrees(arrivals, database, remote)
    ban = (await process.engine.events.by_ordinals([(room.key, room.head.members[banned].ordinal)]))[0]
    joined = next(b for b in before if b.event.state_key == banned)
    assert ban.replaced_event_id == joined.event.event_id


@pytest.mark.parametrize("late", [1, 2])
async def test_who_joins_while_it_becomes_known_stays(
    database: Database, hydra: RemoteServer, late: int
) -> None:
    """At whatever moment: what was read before is not written as if it had been read after."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, join_rule="public")
    remote.fill(3, hydra)
    before = list(remote.state.values())
    await arrivals.join(remote, ALICE, omit_members=True)
    pauses = 0

    async def pause() -> None:
        nonlocal pauses
        pauses += 1
        if pauses == late:
            await arrivals.process.write(remote.id, member(BOB, "join"))

    arrivals.completion._pause = pause
    await arrivals.fill(remote, before)
    assert pauses >= late
    room = await arrivals.process.engine.cache.get(remote.id)
    assert room is not None
    assert room.head.is_joined(BOB) and room.head.partial_servers is None
    await agrees(arrivals, database, remote)


async def test_what_was_not_allowed_is_taken_back(database: Database, hydra: RemoteServer) -> None:
    """Somebody who turns out to be banned said nothing and set nothing."""
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    remote = RemoteRoom(hydra)
    remote.send("m.room.power_levels", {"users": {hydra.user(): 100}, "state_default": 0}, "")
    villain = remote.fill(1, hydra)[0]
    remote.member(villain, "ban", sender=hydra.user())
    before = list(remote.state.values())
    await arrivals.join(remote, ALICE, omit_members=True)
    room = await arrivals.process.engine.cache.get(remote.id)
    assert room is not None
    # As the room took it in while it did not know: its member event was the one it cited.
    await arrivals.process.write(remote.id, topic("fine"))
    await _trust(arrivals, database, remote, villain)
    await arrivals.fill(remote, before)
    room = await arrivals.process.engine.cache.get(remote.id)
    assert room is not None
    assert room.head.content("m.room.topic") == {"topic": "fine"}
    assert room.head.membership(villain) == "ban"
    rows = await database.fetch("failed", "SELECT count(*) FROM events WHERE flags = 2")
    assert rows == [(2,)]
    await agrees(arrivals, database, remote)
    await alice.sync()
    assert "evil" not in alice.bodies(remote.id)


async def _trust(arrivals: Arrivals, database: Database, remote: RemoteRoom, villain: str) -> None:
    """Have a topic and a message of a user in the room, sent when they seemed to be joined."""
    process = arrivals.process
    await process.write(remote.id, member(villain, "join"))
    await process.write(remote.id, topic("evil", villain))
    await process.send(remote.id, villain, "evil")
    # What made them a member here was known of the auth chain only, and is in no state.
    room = await process.engine.cache.get(remote.id)
    assert room is not None
    ordinal = room.head.members[villain].ordinal
    await database.execute(
        "forget_delta",
        "UPDATE state_snapshots SET added = array_remove(added, %s) WHERE room = %s",
        (ordinal, room.key),
    )
    await database.execute(
        "forget_member",
        "UPDATE events SET flags = 4, position = 0 WHERE room = %s AND ordinal = %s",
        (room.key, ordinal),
    )
    await database.execute(
        "forget_current", "DELETE FROM current_state WHERE room = %s AND ordinal = %s", (room.key, ordinal)
    )
    await database.execute(
        "forget_interval", "DELETE FROM memberships WHERE room = %s AND ordinal = %s", (room.key, ordinal)
    )
    process.engine.cache.mark_stale(remote.id)


async def test_completing_goes_on_after_a_restart(database: Database, hydra: RemoteServer) -> None:
    """Another process, that knows nothing of the first, does it; and only one at a time."""
    first = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    remote.fill(3, hydra)
    before = list(remote.state.values())
    await first.join(remote, ALICE, omit_members=True)
    entered = await first.partial.take(60)
    assert entered is not None
    second = await Arrivals.open(database)
    assert await second.partial.take(60) is None
    await first.partial.release(entered)
    await second.fill(remote, before)
    assert (await first.process.engine.cache.get(remote.id)) is not None
    assert await first.partial.seconds_until_due() is None


async def test_a_state_that_cannot_be_is_refused(database: Database, hydra: RemoteServer) -> None:
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    before = list(remote.state.values())
    await arrivals.join(remote, ALICE, omit_members=True)
    with pytest.raises(IncompleteState):
        await arrivals.fill(remote, before[1:])
    assert await arrivals.partial.seconds_until_due() is not None


async def test_entering_again_by_a_whole_answer_ends_it(database: Database, hydra: RemoteServer) -> None:
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    await arrivals.join(remote, ALICE, omit_members=True)
    remote.member(ALICE, "leave", by=arrivals.us)
    await arrivals.process.set_membership(remote.id, ALICE, "leave")
    room = await arrivals.join(remote, ALICE)
    assert room.head.partial_servers is None
    assert await arrivals.partial.seconds_until_due() is None


def test_overlaid_states() -> None:
    """By hand: 1 and 2 were known, 3 and 4 were missing; 5 replaces 3 unknowingly, 6 replaces 2."""
    keys = {n: ("t", name) for n, name in {1: "a", 2: "b", 3: "c", 4: "d", 5: "c", 6: "b"}.items()}
    deltas = [
        Delta(10, None, [], [], checkpoint_of([1, 2])),
        Delta(11, 10, [5], [], None),
        Delta(12, 11, [6], [2], checkpoint_of([1, 5, 6])),
        Delta(13, 99, [7], [], None),
    ]
    whole = {keys[n]: n for n in (1, 2, 3, 4)}
    overlay = Overlay(deltas, 10, whole, keys)
    assert overlay.state(10) == BitMap([1, 2, 3, 4])
    assert overlay.state(11) == BitMap([1, 2, 4, 5])
    assert overlay.state(12) == BitMap([1, 4, 5, 6])
    assert overlay.state(13) is None
    assert overlay.mended().removals[11] == [3]
    assert [overlay.at(12, keys[n]) for n in (1, 2, 3, 4)] == [1, 6, 5, 4]
