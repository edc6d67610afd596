# SPDX-License-Identifier: Apache-2.0
"""Joining rooms by way of other servers: honest ones, dead ones, lying ones, and several at once."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from federation.membership.joining import MOST_SERVERS_IN_ROOM
from federation.membership.progress import JoinProgress
from homeserver.errors import (
    Forbidden,
    GuestAccessForbidden,
    IncompatibleRoomVersion,
    NotFound,
    RemoteServerFailed,
    UnableToGrantJoin,
    UserDeactivated,
)
from storage.database import Database
from tests.federation.membership.membership_fixture import Federation
from tests.federation.membership.resident import Resident, refuse
from tests.federation.servers import RemoteServer
from tests.reactor import reactor
from tests.rooms.arrival.remote_room import Json, RemoteRoom, incoming
from tests.rooms.engine_fixture import ALICE, BOB
from tests.rooms.services_fixture import User, alice, bob

VERSIONS = ["1", "6", "10", "11", "12"]


@pytest.fixture
def hydra() -> RemoteServer:
    return RemoteServer("hydra.test")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("short", [False, True], ids=["whole", "short"])
async def test_a_join(database: Database, hydra: RemoteServer, version: str, short: bool) -> None:
    """By a server that answers with everything, and by one that leaves members out: the user is in and can write."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra, version)
    room.fill(3, hydra)
    resident = Resident(hydra, room, short=short)
    client = federation.client(ALICE)
    await client.sync()
    event_id = await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    assert [event.event_id for event in resident.taken] == [event_id]
    await client.sync()
    assert client.shown(room.id)["m.room.member", ALICE]["event_id"] == event_id
    assert ((await federation.house.head(room.id)).partial_servers is not None) == short
    await federation.process.send(room.id, ALICE, "here")
    await client.sync()
    assert client.bodies(room.id) == ["here"]
    assert federation.entered == [(ALICE, (await federation.house.head(room.id)).room)]


async def test_progress_is_told_in_the_log_and_in_figures(
    database: Database, hydra: RemoteServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each step when it is taken, with what is known of its size, and how it ended."""
    caplog.set_level(logging.INFO, "federation.membership.progress")
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra)
    room.fill(3, hydra)
    resident = Resident(hydra, room, short=False)
    held: Deferred[None] = Deferred()

    async def hold(_destination: str, _method: str, target: str) -> None:
        if "/send_join/" in target:
            await held

    federation.network.before = hold
    before = {name: _figure(name, **labels) for name, labels in FIGURES.items()}
    sending = _figure("lares_federation_joins_under_way", stage="sending")
    joining = Deferred.fromCoroutine(
        federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    )
    while not (under_way := list(federation.joining.progress())) or under_way[0].stage != "sending":
        await deferLater(reactor, 0)
    assert _figure("lares_federation_joins_under_way", stage="sending") == sending + 1
    held.callback(None)
    await joining
    assert len(resident.taken) == 1 and not list(federation.joining.progress())
    assert _figure("lares_federation_joins_under_way", stage="sending") == sending
    told = [record.getMessage() for record in caplog.records]
    steps = (
        "asking hydra.test",
        "sending the join to hydra.test",
        r"reading \d+ events of state and \d+",
        "storing",
    )
    for line, step in zip(told, steps, strict=False):
        assert re.match(rf"joining {re.escape(room.id)}, \d+\.\d s: {step}", line), told
    assert re.match(rf"joining {re.escape(room.id)} ended after \d+\.\d s: joined", told[-1]), told
    gained = {name: _figure(name, **labels) - before[name] for name, labels in FIGURES.items()}
    stored = gained.pop("lares_federation_join_events_total")
    assert set(gained.values()) == {1}
    assert stored == len(room.state) - 1, "all but the join itself"


FIGURES: dict[str, dict[str, str]] = {
    "lares_federation_joins_total": {"outcome": "joined"},
    "lares_federation_join_seconds_count": {},
    "lares_federation_join_events_total": {},
}


def _figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("short", [False, True], ids=["whole", "short"])
async def test_who_closes_the_account_meanwhile_is_not_left_in_the_room(
    database: Database, hydra: RemoteServer, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    """Who joins leaves again; who waits for that join does not join."""
    federation = await Federation.open(database, hydra)
    house = federation.house
    room = RemoteRoom(hydra)
    room.fill(3, hydra)
    Resident(hydra, room, short=short)
    held: Deferred[None] = Deferred()

    async def hold(_destination: str, _method: str, target: str) -> None:
        if "/send_join/" in target:
            await held

    federation.network.before = hold
    join = house.rooms.joining.join
    joins = [Deferred.fromCoroutine(join(alice, room.id, servers=["hydra.test"]))]
    while not (under_way := list(federation.joining.progress())) or under_way[0].stage != "sending":
        await deferLater(reactor, 0)
    waiting: list[JoinProgress] = []
    ended = JoinProgress.ended

    def noted(progress: JoinProgress) -> Deferred[None]:
        waiting.append(progress)
        return ended(progress)

    monkeypatch.setattr(JoinProgress, "ended", noted)
    joins.append(Deferred.fromCoroutine(join(bob, room.id, servers=["hydra.test"])))
    while not waiting:
        await deferLater(reactor, 0)
    house.world.closed.update((ALICE, BOB))
    held.callback(None)
    for joined in joins:
        with pytest.raises(UserDeactivated):
            await joined
    standings = (await house.engine.user_rooms.of(ALICE)).values()
    assert [(standing.room_id, standing.membership) for standing in standings] == [(room.id, "leave")]
    assert not (await house.head(room.id)).is_joined(ALICE)
    assert not await house.engine.user_rooms.of(BOB), "who waited never was in the room"


async def test_profile_and_reason_are_told(database: Database, hydra: RemoteServer) -> None:
    federation = await Federation.open(database, hydra)
    federation.house.world.profiles[ALICE] = {"displayname": "Alice"}
    resident = Resident(hydra, RemoteRoom(hydra))
    await federation.house.rooms.joining.join(
        alice, resident.room.id, servers=["hydra.test"], reason="why not"
    )
    assert resident.taken[0].content == {
        "membership": "join",
        "displayname": "Alice",
        "reason": "why not",
    }


async def test_dead_and_refusing_servers_are_passed_over(database: Database, hydra: RemoteServer) -> None:
    dead, refusing, unable = (RemoteServer(name) for name in ("dead.test", "refusing.test", "unable.test"))
    dead.reachable = False
    refuse(refusing, "join", 403, "M_FORBIDDEN")
    refuse(unable, "join", 400, "M_UNABLE_TO_GRANT_JOIN")
    federation = await Federation.open(database, dead, refusing, unable, hydra)
    resident = Resident(hydra, RemoteRoom(hydra))
    servers = ["dead.test", "refusing.test", "unknown.test", "unable.test", "hydra.test"]
    await federation.house.rooms.joining.join(alice, resident.room.id, servers=servers)
    assert len(resident.taken) == 1


@pytest.mark.parametrize(
    ("status", "errcode", "expected"),
    [
        (403, "M_FORBIDDEN", Forbidden),
        (404, "M_NOT_FOUND", NotFound),
        (400, "M_UNABLE_TO_GRANT_JOIN", UnableToGrantJoin),
        (400, "M_INCOMPATIBLE_ROOM_VERSION", IncompatibleRoomVersion),
        (500, "M_UNKNOWN", RemoteServerFailed),
        (400, "M_MISSING_PARAM", RemoteServerFailed),
    ],
)
async def test_what_the_client_is_told(
    database: Database, hydra: RemoteServer, status: int, errcode: str, expected: type[Exception]
) -> None:
    """A refusal that says something is told as such, whatever else failed."""
    dead = RemoteServer("dead.test")
    dead.reachable = False
    federation = await Federation.open(database, hydra, dead)
    refuse(hydra, "join", status, errcode, room_version="99")
    with pytest.raises(expected):
        await federation.house.rooms.joining.join(alice, "!x:hydra.test", servers=["hydra.test", "dead.test"])


async def test_nobody_to_ask(database: Database) -> None:
    """A room id without a server, and no server named: it is not known."""
    federation = await Federation.open(database)
    with pytest.raises(NotFound):
        await federation.house.rooms.joining.join(alice, "!" + "x" * 43)


async def test_guests_stay_at_home(database: Database, hydra: RemoteServer) -> None:
    federation = await Federation.open(database, hydra)
    with pytest.raises(GuestAccessForbidden):
        await federation.house.rooms.joining.join(User("@guest:localhost", is_guest=True), "!x:hydra.test")


# Lies


def _change(**changes: Any) -> Callable[[Json], object]:
    return lambda answer: answer["event"].update(changes)


@pytest.mark.parametrize(
    "twist",
    [
        _change(type="m.room.power_levels"),
        _change(state_key="@mallory:localhost"),
        _change(sender="@bob:localhost"),
        _change(room_id="!other:hydra.test"),
        _change(content={"membership": "ban"}),
        _change(content="join"),
        _change(prev_events=[]),
        _change(prev_events="x"),
        _change(auth_events=["no event"]),
        _change(auth_events=["$x"] * 11),
        _change(depth="1"),
        _change(depth=-1),
        lambda answer: answer.update(room_version="11", event={}),
    ],
)
async def test_nothing_else_is_signed(
    database: Database, hydra: RemoteServer, twist: Callable[[Json], object]
) -> None:
    """A server that drafts anything but this user's join of this room gets no signature, and the next is asked."""
    liar = RemoteServer("liar.test")
    federation = await Federation.open(database, hydra, liar)
    room = RemoteRoom(hydra)
    lying, honest = Resident(liar, room), Resident(hydra, room)
    lying.twist_template = twist
    await federation.house.rooms.joining.join(alice, room.id, servers=["liar.test", "hydra.test"])
    assert not lying.taken
    assert len(honest.taken) == 1


async def test_only_our_words_are_signed(database: Database, hydra: RemoteServer) -> None:
    """What a draft says besides is not in the event."""
    federation = await Federation.open(database, hydra)
    resident = Resident(hydra, RemoteRoom(hydra))

    def twist(answer: Json) -> None:
        answer["event"]["content"].update(displayname="Mallory", **{"org.evil": True})
        answer["event"].update(unsigned={"x": 1}, redacts="$x", origin="hydra.test", extra="field")

    resident.twist_template = twist
    await federation.house.rooms.joining.join(alice, resident.room.id, servers=["hydra.test"])
    (join,) = resident.taken
    assert join.content == {"membership": "join"}
    assert not {"extra", "redacts", "unsigned", "origin"} & join.pdu.keys()


def _without_create(answer: Json) -> None:
    answer["state"] = [pdu for pdu in answer["state"] if pdu["type"] != "m.room.create"]


def _forged_state(answer: Json) -> None:
    for pdu in answer["state"]:
        if pdu["type"] == "m.room.join_rules":
            pdu["signatures"] = {"hydra.test": {"ed25519:test": "A" * 86}}


def _no_chain(answer: Json) -> None:
    answer["state"] = [pdu for pdu in answer["state"] if pdu["type"] != "m.room.power_levels"]
    answer["auth_chain"] = []


@pytest.mark.parametrize("twist", [_without_create, _forged_state, _no_chain])
async def test_unbelievable_answers_lead_to_the_next_server(
    database: Database, hydra: RemoteServer, twist: Callable[[Json], object]
) -> None:
    liar = RemoteServer("liar.test")
    federation = await Federation.open(database, hydra, liar)
    room = RemoteRoom(hydra)
    lying = Resident(liar, room)
    Resident(hydra, room)
    lying.twist_answer = twist
    await federation.house.rooms.joining.join(alice, room.id, servers=["liar.test", "hydra.test"])
    head = await federation.house.head(room.id)
    assert head.is_joined(ALICE)
    assert head.join_rule == "public"


async def test_an_answer_from_liars_only(database: Database, hydra: RemoteServer) -> None:
    """The room is not entered, and nothing of it is shown."""
    federation = await Federation.open(database, hydra)
    resident = Resident(hydra, RemoteRoom(hydra))
    resident.twist_answer = _without_create
    with pytest.raises(RemoteServerFailed):
        await federation.house.rooms.joining.join(alice, resident.room.id, servers=["hydra.test"])
    client = federation.client(ALICE)
    await client.sync()
    assert not client.has(resident.room.id)


# Restricted rooms


async def test_a_restricted_join_is_vouched_for(database: Database, hydra: RemoteServer) -> None:
    federation = await Federation.open(database, hydra)
    rules = {"allow": [{"type": "m.room_membership", "room_id": "!other:hydra.test"}]}
    resident = Resident(hydra, RemoteRoom(hydra, "10", join_rule="restricted", rules=rules))
    resident.vouching = True
    await federation.house.rooms.joining.join(alice, resident.room.id, servers=["hydra.test"])
    room = await federation.house.room(resident.room.id)
    member = (await federation.engine.gate.members(room, [ALICE]))[ALICE].event
    assert member.content["join_authorised_via_users_server"] == hydra.user()
    assert set(member.pdu["signatures"]) == {"localhost", "hydra.test"}


@pytest.mark.parametrize("fault", ["no event", "unsigned", "another", "somebody else"])
async def test_a_restricted_join_needs_the_signature(
    database: Database, hydra: RemoteServer, fault: str
) -> None:
    """Without the signature of who vouches the join is worth nothing, here as elsewhere."""
    federation = await Federation.open(database, hydra)
    rules = {"allow": [{"type": "m.room_membership", "room_id": "!other:hydra.test"}]}
    resident = Resident(hydra, RemoteRoom(hydra, "10", join_rule="restricted", rules=rules))
    resident.vouching = True

    def twist(answer: Json) -> None:
        match fault:
            case "no event":
                del answer["event"]
            case "unsigned":
                del answer["event"]["signatures"]["hydra.test"]
            case "another":
                answer["event"]["content"]["displayname"] = "Mallory"

    resident.twist_answer = twist
    if fault == "somebody else":
        resident.twist_template = lambda answer: answer["event"]["content"].update(
            join_authorised_via_users_server="@bob:elsewhere.test"
        )
    with pytest.raises(RemoteServerFailed):
        await federation.house.rooms.joining.join(alice, resident.room.id, servers=["hydra.test"])


async def test_where_nobody_here_may_vouch_another_server_does(
    database: Database, hydra: RemoteServer
) -> None:
    """In a room this server is in, too: the join comes back as an event of the room."""
    federation = await Federation.open(database, hydra)
    elsewhere = await federation.house.create(preset="public_chat")
    await federation.house.rooms.joining.join(bob, elsewhere)
    rules = {"allow": [{"type": "m.room_membership", "room_id": elsewhere}]}
    room = RemoteRoom(hydra, "10", join_rule="restricted", rules=rules)
    room.send("m.room.power_levels", {"users": {hydra.user(): 100}, "invite": 50}, "")
    resident = Resident(hydra, room)
    resident.vouching = True
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    event_id = await federation.house.rooms.joining.join(bob, room.id)
    assert [event.state_key for event in resident.taken] == [ALICE, BOB]
    ((received, outbound),) = federation.intake.received
    assert (received.event.event_id, outbound) == (event_id, False)
    assert received.state_before is not None


# Several at once


async def test_one_join_serves_all_who_come_meanwhile(database: Database, hydra: RemoteServer) -> None:
    """The room is entered once; the second user, and the impatient first, join it as it is here then."""
    federation = await Federation.open(database, hydra)
    resident = Resident(hydra, RemoteRoom(hydra))
    joining = federation.house.rooms.joining
    event_ids = await gatherResults(
        [
            Deferred.fromCoroutine(joining.join(user, resident.room.id, servers=["hydra.test"]))
            for user in (alice, bob, alice)
        ]
    )
    assert len(resident.taken) == 1
    assert event_ids[0] == event_ids[2]
    head = await federation.house.head(resident.room.id)
    assert head.is_joined(ALICE)
    assert head.is_joined(BOB)


async def test_others_can_wait_for_a_join(database: Database, hydra: RemoteServer) -> None:
    federation = await Federation.open(database, hydra)
    resident = Resident(hydra, RemoteRoom(hydra))
    gate: Deferred[None] = Deferred()

    async def hold(_destination: str, _method: str, target: str) -> None:
        if "send_join" in target:
            await gate

    federation.network.before = hold
    join = Deferred.fromCoroutine(
        federation.house.rooms.joining.join(alice, resident.room.id, servers=["hydra.test"])
    )
    assert federation.joining.under_way("!other:hydra.test") is None
    while federation.joining.under_way(resident.room.id) is None:
        await federation.process.engine.database.fetch("wait", "SELECT 1")
    under_way = federation.joining.under_way(resident.room.id)
    assert under_way is not None
    gate.callback(None)
    await under_way
    await join
    assert federation.joining.under_way(resident.room.id) is None


# Invited, and coming back


async def test_an_invite_tells_whom_to_ask(database: Database, hydra: RemoteServer) -> None:
    """A version 12 room has no server in its id; the inviter's is asked."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra, "12", join_rule="invite")
    Resident(hydra, room)
    invite = room.member(ALICE, "invite", sender=hydra.user())
    await federation.out_of_band.invited(room.version, incoming(invite), [])
    await federation.house.rooms.joining.join(alice, room.id)
    assert (await federation.house.head(room.id)).is_joined(ALICE)


@pytest.mark.parametrize("short", [False, True], ids=["whole", "short"])
async def test_coming_back(database: Database, hydra: RemoteServer, short: bool) -> None:
    """After leaving, the room is joined anew by way of those who were in it."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra, "12")
    resident = Resident(hydra, room, short=short)
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    await federation.house.rooms.leaving.leave(alice, room.id)
    room.member(ALICE, "leave", by=federation.us)
    room.send("m.room.topic", {"topic": "while you were away"}, "")
    await federation.house.rooms.joining.join(alice, room.id)
    assert len(resident.taken) == 2
    head = await federation.house.head(room.id)
    assert head.content("m.room.topic") == {"topic": "while you were away"}


async def test_an_alias_of_another_server(database: Database, hydra: RemoteServer) -> None:
    federation = await Federation.open(database, hydra)
    resident = Resident(hydra, RemoteRoom(hydra, "12"))
    hydra.on(
        "GET",
        "/_matrix/federation/v1/query/directory",
        lambda _request: {
            "room_id": resident.room.id,
            "servers": ["other.test", "hydra.test", "not a name!"],
        },
    )
    found = await federation.house.rooms.locator.locate("#deep:hydra.test", ["via.test"])
    assert (found.room_id, found.servers) == (resident.room.id, ["via.test", "hydra.test", "other.test"])
    with pytest.raises(RemoteServerFailed):
        await federation.house.rooms.locator.locate("#deep:gone.test")


async def test_servers_made_up_are_bounded(database: Database, hydra: RemoteServer) -> None:
    """Whoever lets us in cannot have this server call upon any number of others."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra)
    resident = Resident(hydra, room)
    names = [f"made-up-{number}.test" for number in range(MOST_SERVERS_IN_ROOM + 1000)]
    resident.twist_answer = lambda answer: answer.update(servers_in_room=names)
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    servers = (await federation.house.head(room.id)).partial_servers
    assert servers is not None
    assert len(servers) == MOST_SERVERS_IN_ROOM
    assert {"hydra.test", names[0]} <= servers


async def test_a_large_room(
    database: Database, hydra: RemoteServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """2,000 members and 3,000 other pieces of state, from the first question to being in, signatures and all."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra)
    room.fill(2000, hydra)
    for number in range(3000):
        room.send("m.space.child", {"via": ["hydra.test"]}, f"!child{number}:hydra.test")
    for short in (False, True):
        resident = Resident(hydra, room, short=short)
        started = time.perf_counter()
        await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
        seconds = time.perf_counter() - started
        with capsys.disabled():
            sys.stdout.write(f" in by a {'short' if short else 'whole'} answer after {seconds:.2f} s ")
        assert len(resident.taken) == 1
        if not short:
            await federation.house.rooms.leaving.leave(alice, room.id)
            room.member(ALICE, "leave", by=federation.us)
    started = time.perf_counter()
    federation.filler.start()
    await federation.whole(room.id)
    await federation.filler.stop()
    with capsys.disabled():
        sys.stdout.write(f"whole {time.perf_counter() - started:.2f} s later ")
    assert (await federation.house.head(room.id)).joined_count == 2002
