# SPDX-License-Identifier: Apache-2.0
"""Invites and knocks in rooms this server is not in: shown, ended, and turned into a stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from homeserver.protocol.room_versions import room_version
from homeserver.rooms.arrival.out_of_band import stripped_json
from homeserver.stream.changes import Change
from storage.arrivals import ArrivalStore
from storage.database import Database
from tests.federation.servers import RemoteServer
from tests.rooms.arrival.arrival_fixture import Arrivals
from tests.rooms.arrival.remote_room import RemoteRoom, incoming
from tests.rooms.engine_fixture import ALICE, BOB, heard

VERSIONS = ["1", "6", "10", "11", "12"]
NAME = {"type": "m.room.name", "state_key": "", "sender": "@alice:hydra.test", "content": {"name": "Deep"}}


@pytest.fixture
def hydra() -> RemoteServer:
    return RemoteServer("hydra.test")


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_invite_is_shown_at_once(database: Database, hydra: RemoteServer, version: str) -> None:
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    await alice.sync()
    remote = RemoteRoom(hydra, version, join_rule="invite")
    invite = remote.member(ALICE, "invite", sender=hydra.user())
    assert await arrivals.out_of_band.invited(remote.version, incoming(invite), [NAME])
    await alice.sync()
    events = alice.room(remote.id, "invite")["invite_state"]["events"]
    assert [event["type"] for event in events] == ["m.room.name", "m.room.member"]
    assert events[1]["content"]["membership"] == "invite"


class Shown:
    """Notes whom the commit that shows a position names, and what it knows of rooms."""

    def __init__(self, arrivals: Arrivals, position: int) -> None:
        self._stream = arrivals.process.engine.stream
        self._position = position
        self.named: set[str] | None = None
        self._stream.subscribe(self)

    def changed(self, change: Change) -> Iterable[str]:
        if self.named is None and change.position >= self._position:
            assert change.rooms and change.whole
            self.named = set(change.users)
        return ()


@pytest.mark.parametrize("crowd", [0, 300], ids=["one", "more than one notification holds"])
async def test_whose_own_it_is_is_known_when_the_position_is_shown(
    database: Database, hydra: RemoteServer, crowd: int
) -> None:
    """In the process that wrote it and in others: who looks between two notifications must not miss it for ever."""
    here, there = await Arrivals.open(database), await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    members = remote.fill(crowd, here.us)
    shown = [Shown(each, here.process.engine.stream.position + 1) for each in (here, there)]
    await here.join(remote, BOB)
    await heard(here.process.engine, there.process.engine)
    assert [each.named for each in shown] == [{BOB, *members}] * 2


async def test_the_same_invite_again_is_no_news(database: Database, hydra: RemoteServer) -> None:
    """Also after it was rejected: an old invite does not come back."""
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    remote = RemoteRoom(hydra, join_rule="invite")
    invite = incoming(remote.member(ALICE, "invite", sender=hydra.user()))
    assert await arrivals.out_of_band.invited(remote.version, invite, [])
    assert await arrivals.out_of_band.invited(remote.version, invite, [])
    await alice.sync()
    assert await arrivals.out_of_band.withdraw(remote.id, ALICE, {}, invite.event.event_id)
    assert await arrivals.out_of_band.invited(remote.version, invite, [])
    await alice.sync()
    assert alice.has(remote.id, "leave")
    assert not alice.has(remote.id, "invite")


async def test_a_new_invite_after_a_rejection_counts(database: Database, hydra: RemoteServer) -> None:
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    remote = RemoteRoom(hydra, join_rule="invite")
    for _ in range(2):
        invite = incoming(remote.member(ALICE, "invite", sender=hydra.user()))
        assert await arrivals.out_of_band.invited(remote.version, invite, [])
        await alice.sync()
        assert alice.has(remote.id, "invite")
        leave = incoming(remote.member(ALICE, "leave", sender=hydra.user()))
        assert await arrivals.out_of_band.left(remote.version, leave, invite.event.event_id)
        await alice.sync()
        assert alice.has(remote.id, "leave")


@pytest.mark.parametrize("version", VERSIONS)
async def test_withdrawing_needs_nobody(database: Database, hydra: RemoteServer, version: str) -> None:
    """An invite is rejected here alone, and not twice."""
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    remote = RemoteRoom(hydra, version, join_rule="invite")
    invite = incoming(remote.member(ALICE, "invite", sender=hydra.user()))
    await arrivals.out_of_band.invited(remote.version, invite, [])
    await alice.sync()
    assert await arrivals.out_of_band.withdraw(remote.id, ALICE, {"reason": "no"}, invite.event.event_id)
    assert (
        await arrivals.out_of_band.withdraw(remote.id, ALICE, {"reason": "no"}, invite.event.event_id) is None
    )
    await alice.sync()
    assert alice.has(remote.id, "leave")


async def test_nobody_is_thrown_out_of_what_they_were_never_in(
    database: Database, hydra: RemoteServer
) -> None:
    """A leave or ban for a user who had no part in the room shows them nothing."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    ban = incoming(remote.member(ALICE, "ban", sender=hydra.user()))
    assert not await arrivals.out_of_band.left(remote.version, ban, ban.event.event_id)
    alice = arrivals.client(ALICE)
    await alice.sync()
    assert not alice.has(remote.id, "leave")


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_invite_turns_into_a_stay(database: Database, hydra: RemoteServer, version: str) -> None:
    """The invite, stored without what it cites, is the event that the join replaces; its chain is known then."""
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    remote = RemoteRoom(hydra, version, join_rule="invite")
    invite = remote.member(ALICE, "invite", sender=hydra.user())
    await arrivals.out_of_band.invited(remote.version, incoming(invite), [NAME])
    await alice.sync()
    await arrivals.join(remote, ALICE)
    await alice.sync()
    (join,) = alice.timeline(remote.id)
    assert join["unsigned"]["prev_content"]["membership"] == "invite"
    stored = await arrivals.process.engine.events.by_ids([invite.event.event_id])
    assert stored[invite.event.event_id].auth_chain


async def test_a_knock_is_shown_and_answered_by_an_invite(database: Database, hydra: RemoteServer) -> None:
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    remote = RemoteRoom(hydra, join_rule="knock")
    knock = incoming(remote.member(ALICE, "knock", by=arrivals.us))
    assert await arrivals.out_of_band.knocked(remote.version, knock, [NAME])
    await alice.sync()
    assert alice.has(remote.id, "knock")
    invite = incoming(remote.member(ALICE, "invite", sender=hydra.user()))
    assert await arrivals.out_of_band.invited(remote.version, invite, [NAME])
    await alice.sync()
    assert alice.has(remote.id, "invite")


@pytest.mark.parametrize("version", ["7", "10", "11", "12"])
async def test_a_knock_that_was_answered_already(
    database: Database, hydra: RemoteServer, version: str
) -> None:
    """Who took it says so late: the invite that answers it stays, also one that followed, and so does its end."""
    arrivals = await Arrivals.open(database)
    door = arrivals.out_of_band
    remote = RemoteRoom(hydra, version, join_rule="knock")
    knock = incoming(remote.member(ALICE, "knock", by=arrivals.us))
    for _ in range(2):
        invite = incoming(remote.member(ALICE, "invite", sender=hydra.user()))
        assert await door.invited(remote.version, invite, [])
        assert await door.knocked(remote.version, knock, [NAME])
        assert await standing(arrivals, remote) == ("invite", invite.event.event_id)
    leave = incoming(remote.member(ALICE, "leave", by=arrivals.us))
    assert await door.left(remote.version, leave, invite.event.event_id)
    assert await door.knocked(remote.version, knock, [NAME])
    assert await standing(arrivals, remote) == ("leave", leave.event.event_id)


@pytest.mark.parametrize("version", VERSIONS)
async def test_of_two_invites_the_newer_stays(database: Database, hydra: RemoteServer, version: str) -> None:
    """In whatever order they come."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, version, join_rule="invite")
    older, newer = (incoming(remote.member(ALICE, "invite", sender=hydra.user())) for _ in range(2))
    for invite in (newer, older):
        assert await arrivals.out_of_band.invited(remote.version, invite, [])
    assert await standing(arrivals, remote) == ("invite", newer.event.event_id)


@pytest.mark.parametrize("end", ["left", "withdrawn", "left late", "withdrawn late"])
async def test_the_end_of_one_invite_is_none_of_the_next(
    database: Database, hydra: RemoteServer, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Also if that one comes, by another process, just before the end of the other is written."""
    here, there = await Arrivals.open(database), await Arrivals.open(database)
    remote = RemoteRoom(hydra, join_rule="invite")
    invite = incoming(remote.member(ALICE, "invite", sender=hydra.user()))
    leave = incoming(remote.event("m.room.member", {"membership": "leave"}, ALICE, sender=ALICE, by=here.us))
    newer = incoming(remote.member(ALICE, "invite", sender=hydra.user()))
    assert await here.out_of_band.invited(remote.version, invite, [])
    committer = here.process.engine.committer
    write = committer.write

    async def late(*row: Any, **more: Any) -> Any:
        monkeypatch.undo()
        assert await there.out_of_band.invited(remote.version, newer, [])
        return await write(*row, **more)

    if end.endswith("late"):
        assert await here.out_of_band.invited(remote.version, newer, [])
    else:
        monkeypatch.setattr(committer, "write", late)
    if end.startswith("withdrawn"):
        assert await here.out_of_band.withdraw(remote.id, ALICE, {}, invite.event.event_id) is None
    else:
        assert not await here.out_of_band.left(remote.version, leave, invite.event.event_id)
    assert await standing(here, remote) == ("invite", newer.event.event_id)


async def test_who_comes_in_meanwhile_is_in(
    database: Database, hydra: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a join of another process, after it was looked whether this server is in the room."""
    here, there = await Arrivals.open(database), await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    invite = incoming(remote.member(ALICE, "invite", sender=hydra.user()))
    reserve = ArrivalStore.reserve_ordinals

    async def late(store: ArrivalStore, room: int, count: int) -> int:
        monkeypatch.undo()
        await there.join(remote, ALICE)
        return await reserve(store, room, count)

    monkeypatch.setattr(ArrivalStore, "reserve_ordinals", late)
    assert not await here.out_of_band.invited(remote.version, invite, [])
    membership, _ = await standing(here, remote)
    assert membership == "join"


async def standing(arrivals: Arrivals, remote: RemoteRoom) -> tuple[str | None, str]:
    """What Alice is in the room, and by which event."""
    engine = arrivals.process.engine
    engine.cache.mark_stale(remote.id)
    room = await engine.cache.get(remote.id)
    assert room is not None
    (stored,) = await engine.events.by_ordinals([(room.key, room.head.members[ALICE].ordinal)])
    return room.head.membership(ALICE), stored.event_id


async def test_an_invite_may_lie_about_the_version(database: Database, hydra: RemoteServer) -> None:
    """The room is of the version that its create event says, whatever somebody said before."""
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    remote = RemoteRoom(hydra, "10")
    lie = hydra.pdu(
        version="6",
        room_id=remote.id,
        event_type="m.room.member",
        content={"membership": "invite"},
        state_key=ALICE,
        prev=remote.latest,
    )
    assert await arrivals.out_of_band.invited(room_version("6"), incoming(lie), [])
    await alice.sync()
    room = await arrivals.join(remote, ALICE)
    assert str(room.head.version) == "10"
    await arrivals.process.send(remote.id, ALICE, "hello")
    await alice.sync()
    assert alice.bodies(remote.id) == ["hello"]


async def test_a_version_that_was_lied_about_holds_up_nobody(database: Database, hydra: RemoteServer) -> None:
    """The first to name a room says nothing of its version for those who come after."""
    arrivals = await Arrivals.open(database)
    alice, bob = arrivals.client(ALICE), arrivals.client("@bob:localhost")
    thief = RemoteServer("thief.test")
    remote = RemoteRoom(hydra, "11", join_rule="invite")
    lie = thief.pdu(
        version="1",
        room_id=remote.id,
        event_type="m.room.member",
        content={"membership": "invite"},
        state_key="@bob:localhost",
        prev=[],
    )
    assert await arrivals.out_of_band.invited(room_version("1"), incoming(lie), [])
    invite = remote.member(ALICE, "invite", sender=hydra.user())
    assert await arrivals.out_of_band.invited(remote.version, incoming(invite), [NAME])
    room = await arrivals.process.engine.cache.get(remote.id)
    assert room is not None and room.head.version is remote.version
    other = await (await Arrivals.open(database)).process.engine.cache.get(remote.id)
    assert other is not None and other.head.version is remote.version
    for client in (alice, bob):
        await client.sync()
        assert client.has(remote.id, "invite")
    assert (
        await arrivals.out_of_band.withdraw(remote.id, "@bob:localhost", {}, lie.event.event_id) is not None
    )
    await bob.sync()
    assert not bob.has(remote.id, "invite")


async def test_the_version_of_a_room_that_is_known_stays(database: Database, hydra: RemoteServer) -> None:
    """Also when nobody of ours is in it any more."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, "11")
    await arrivals.join(remote, ALICE)
    await arrivals.process.set_membership(remote.id, ALICE, "leave")
    lie = RemoteServer("thief.test").pdu(
        version="1",
        room_id=remote.id,
        event_type="m.room.member",
        content={"membership": "invite"},
        state_key=ALICE,
        prev=[],
    )
    assert not await arrivals.out_of_band.invited(room_version("1"), incoming(lie), [])
    room = await arrivals.process.engine.cache.get(remote.id)
    assert room is not None and room.head.version is remote.version
    assert room.head.membership(ALICE) == "leave"


async def test_a_live_room_takes_its_own_events(database: Database, hydra: RemoteServer) -> None:
    """Where this server is in the room, an invite is the room's to judge."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    await arrivals.join(remote, "@bob:localhost")
    invite = incoming(remote.member(ALICE, "invite", sender=hydra.user()))
    assert not await arrivals.out_of_band.invited(remote.version, invite, [])


def test_stripped_state_is_made_safe() -> None:
    """What is no stripped event is left out, what no client wants is cut off, and all of it is bounded."""
    odd: list[Mapping[str, Any]] = [
        {"type": 1, "state_key": "", "sender": "@a:b", "content": {}},
        {**NAME, "content": "text"},
        {**NAME, "signatures": {"x": "y"}},
    ]
    assert stripped_json(odd) == (
        '[{"type":"m.room.name","state_key":"","sender":"@alice:hydra.test","content":{"name":"Deep"}}]'
    )
    assert stripped_json([{**NAME, "content": {"x": "x" * 70_000}}]) == "[]"
    assert stripped_json([NAME] * 1000).count("m.room.name") == 50
