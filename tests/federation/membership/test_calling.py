# SPDX-License-Identifier: Apache-2.0
"""Inviting users of other servers, rejecting their invites, knocking on their rooms: with their server up or not."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.errors import (
    Forbidden,
    IncompatibleRoomVersion,
    InviteBlocked,
    NotFound,
    RemoteServerFailed,
)
from homeserver.rooms.intake.incoming import Outcome
from storage.database import Database
from tests.federation.membership.membership_fixture import Federation
from tests.federation.membership.resident import Resident, refuse
from tests.federation.servers import Received, Refused, RemoteServer
from tests.rooms.arrival.remote_room import Json, RemoteRoom, incoming
from tests.rooms.engine_fixture import ALICE, BOB
from tests.rooms.services_fixture import alice, bob

VERSIONS = ["1", "6", "10", "11", "12"]


@pytest.fixture
def hydra() -> RemoteServer:
    return RemoteServer("hydra.test")


class Invited:
    """A server that takes invites; `twist` changes the event it gives back."""

    def __init__(self, server: RemoteServer, twist: Any = None) -> None:
        self.bodies: list[Json] = []

        def take(request: Received) -> Json:
            body = request.json
            self.bodies.append(body)
            event = server.sign_pdu(body["event"], body["room_version"])
            if twist is not None:
                twist(event)
            return {"event": event}

        server.on("PUT", "/_matrix/federation/v2/invite/{room_id}/{event_id}", take)


# Inviting


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_invite_is_signed_by_both(database: Database, hydra: RemoteServer, version: str) -> None:
    """Their server sees the room as whole events, signs, and the room then gets the event to be spread."""
    federation = await Federation.open(database, hydra)
    invited = Invited(hydra)
    room_id = await federation.house.create(alice, version=version, name="Ours")
    event_id = await federation.house.rooms.inviting.invite(alice, room_id, hydra.user(), reason="come")
    (body,) = invited.bodies
    assert body["room_version"] == version
    assert body["event"]["content"] == {"membership": "invite", "reason": "come"}
    shown = {pdu["type"]: pdu for pdu in body["invite_room_state"]}
    assert {"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member"} <= shown.keys()
    assert all("signatures" in pdu for pdu in shown.values())
    assert shown["m.room.member"]["state_key"] == ALICE
    ((received, outbound),) = federation.intake.received
    assert (received.event.event_id, outbound) == (event_id, True)
    assert set(orjson.loads(received.json)["signatures"]) == {"localhost", "hydra.test"}


@pytest.mark.parametrize(
    "twist",
    [
        lambda event: event["content"].update(membership="join"),
        lambda event: event.update(sender="@mallory:hydra.test"),
        lambda event: event["signatures"].pop("hydra.test"),
        lambda event: event["signatures"].update({"hydra.test": {"ed25519:x": 7}}),
        lambda event: event.update(signatures="none"),
    ],
)
async def test_what_comes_back_must_be_our_invite(
    database: Database, hydra: RemoteServer, twist: Any
) -> None:
    federation = await Federation.open(database, hydra)
    Invited(hydra, twist)
    room_id = await federation.house.create(alice)
    with pytest.raises(RemoteServerFailed):
        await federation.house.rooms.inviting.invite(alice, room_id, hydra.user())
    assert not federation.intake.received


async def test_nothing_else_of_the_answer_is_kept(database: Database, hydra: RemoteServer) -> None:
    """Signatures of other servers and `unsigned` are left where they came from."""

    def twist(event: Json) -> None:
        event["unsigned"] = {"age": 1}
        event["signatures"]["mallory.test"] = {"ed25519:x": "x"}

    federation = await Federation.open(database, hydra)
    Invited(hydra, twist)
    room_id = await federation.house.create(alice)
    await federation.house.rooms.inviting.invite(alice, room_id, hydra.user())
    ((received, _),) = federation.intake.received
    pdu = orjson.loads(received.json)
    assert "unsigned" not in pdu
    assert set(pdu["signatures"]) == {"localhost", "hydra.test"}


@pytest.mark.parametrize(
    ("status", "errcode", "expected"),
    [
        (403, "M_FORBIDDEN", Forbidden),
        (403, "M_INVITE_BLOCKED", InviteBlocked),
        (400, "M_INCOMPATIBLE_ROOM_VERSION", IncompatibleRoomVersion),
        (400, "M_MISSING_PARAM", RemoteServerFailed),
        (400, "M_INVALID_PARAM", RemoteServerFailed),
        (500, "M_UNKNOWN", RemoteServerFailed),
    ],
)
async def test_a_refused_invite(
    database: Database, hydra: RemoteServer, status: int, errcode: str, expected: type[Exception]
) -> None:
    federation = await Federation.open(database, hydra)

    def handler(_request: Received) -> Json:
        raise Refused(status, errcode, "no")

    hydra.on("PUT", "/_matrix/federation/v2/invite/{room_id}/{event_id}", handler)
    room_id = await federation.house.create(alice)
    with pytest.raises(expected) as caught:
        await federation.house.rooms.inviting.invite(alice, room_id, hydra.user())
    assert type(caught.value) is expected
    assert not federation.intake.received


async def test_invites_need_power_here_first(database: Database, hydra: RemoteServer) -> None:
    """Who may not invite asks nobody."""
    federation = await Federation.open(database, hydra)
    invited = Invited(hydra)
    room_id = await federation.house.public(bob)
    with pytest.raises(Forbidden):
        await federation.house.rooms.inviting.invite(bob, room_id, hydra.user())
    assert not invited.bodies


async def test_an_invite_that_the_room_does_not_take(database: Database, hydra: RemoteServer) -> None:
    federation = await Federation.open(database, hydra)
    Invited(hydra)
    federation.intake.outcome = Outcome.SOFT_FAILED
    room_id = await federation.house.create(alice)
    with pytest.raises(Forbidden):
        await federation.house.rooms.inviting.invite(alice, room_id, hydra.user())


async def test_a_new_room_invites_elsewhere(database: Database, hydra: RemoteServer) -> None:
    """The room is there, whether or not a server that is down could be asked."""
    dead = RemoteServer("dead.test")
    dead.reachable = False
    federation = await Federation.open(database, hydra, dead)
    invited = Invited(hydra)
    room_id = await federation.house.create(alice, invite=(hydra.user(), dead.user(), BOB), is_direct=True)
    assert [body["event"]["content"].get("is_direct") for body in invited.bodies] == [True]
    head = await federation.house.head(room_id)
    assert head.membership(BOB) == "invite"


async def test_third_party_invites_are_handed_to_the_inviter(database: Database, hydra: RemoteServer) -> None:
    federation = await Federation.open(database, hydra)
    taken: list[Json] = []

    def take(request: Received) -> Json:
        taken.append(request.json)
        return {}

    hydra.on("PUT", "/_matrix/federation/v1/exchange_third_party_invite/{room_id}", take)
    invite = {"display_name": "a@b", "signed": {"mxid": ALICE, "token": "t", "signatures": {}}}
    await federation.remote.exchange_third_party_invite(
        "!r:hydra.test", inviter=hydra.user(), user_id=ALICE, invite=invite
    )
    (event,) = taken
    assert (event["sender"], event["state_key"]) == (hydra.user(), ALICE)
    assert event["content"] == {"membership": "invite", "third_party_invite": invite}


# Leaving


async def invited_room(federation: Federation, hydra: RemoteServer, version: str = "11") -> RemoteRoom:
    """A room of another server that Alice is invited to."""
    room = RemoteRoom(hydra, version, join_rule="invite")
    invite = room.member(ALICE, "invite", sender=hydra.user())
    await federation.out_of_band.invited(room.version, incoming(invite), [])
    return room


async def invite_again(federation: Federation, hydra: RemoteServer, room: RemoteRoom) -> None:
    """By the same user, on top of what the room is by now."""
    invite = room.member(ALICE, "invite", sender=hydra.user())
    assert await federation.out_of_band.invited(room.version, incoming(invite), [])


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_invite_is_rejected_there(database: Database, hydra: RemoteServer, version: str) -> None:
    federation = await Federation.open(database, hydra)
    room = await invited_room(federation, hydra, version)
    resident = Resident(hydra, room)
    client = federation.client(ALICE)
    await client.sync()
    event_id = await federation.house.rooms.leaving.leave(alice, room.id, reason="no")
    assert [event.event_id for event in resident.taken] == [event_id]
    assert resident.taken[0].content == {"membership": "leave", "reason": "no"}
    await client.sync()
    assert client.has(room.id, "leave")
    assert await federation.house.rooms.leaving.leave(alice, room.id) == ""


@pytest.mark.parametrize("fault", ["dead", "refuses", "forgot", "lies"])
async def test_an_invite_is_rejected_without_them(
    database: Database, hydra: RemoteServer, fault: str
) -> None:
    """The server is gone, does not want to know, knows nothing of the room any more, or wants something else signed:
    the user is out all the same.
    """
    federation = await Federation.open(database, hydra)
    room = await invited_room(federation, hydra)
    resident = Resident(hydra, room)
    client = federation.client(ALICE)
    await client.sync()
    match fault:
        case "dead":
            hydra.reachable = False
        case "refuses":
            refuse(hydra, "leave", 403, "M_FORBIDDEN")
        case "forgot":
            refuse(hydra, "leave", 404, "M_NOT_FOUND")
        case "lies":
            resident.twist_template = lambda answer: answer["event"].update(content={"membership": "join"})
    assert await federation.house.rooms.leaving.leave(alice, room.id)
    assert not resident.taken
    await client.sync()
    assert client.has(room.id, "leave")
    with pytest.raises(Forbidden):
        await federation.house.rooms.leaving.leave(bob, room.id)


async def test_closing_an_account_rejects_invites(database: Database, hydra: RemoteServer) -> None:
    federation = await Federation.open(database, hydra)
    room = await invited_room(federation, hydra)
    hydra.reachable = False
    own = await federation.house.create(alice)
    await federation.house.departure.leave_all(ALICE)
    assert (await federation.house.head(room.id)).membership(ALICE) == "leave"
    assert (await federation.house.head(own)).membership(ALICE) == "leave"


# Knocking


@pytest.mark.parametrize("version", ["7", "10", "11", "12"])
async def test_a_knock(database: Database, hydra: RemoteServer, version: str) -> None:
    """It is shown with what the other server tells of the room, and can be withdrawn."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra, version, join_rule="knock")
    room.send("m.room.name", {"name": "Behind the door"}, "")
    resident = Resident(hydra, room)
    client = federation.client(ALICE)
    await client.sync()
    await federation.house.rooms.knocking.knock(alice, room.id, servers=["hydra.test"], reason="please")
    assert resident.taken[0].content == {"membership": "knock", "reason": "please"}
    await client.sync()
    events = client.room(room.id, "knock")["knock_state"]["events"]
    assert {event["type"] for event in events} >= {"m.room.name", "m.room.member"}
    await federation.house.rooms.leaving.leave(alice, room.id)
    await client.sync()
    assert client.has(room.id, "leave")


async def test_a_knock_that_is_answered_at_once(
    database: Database, hydra: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The invite is here before the knock is known to be taken: who knocked may come in."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra, join_rule="knock")
    Resident(hydra, room)
    send_knock = federation.calls.send_knock

    async def late(*knock: Any) -> Any:
        shown = await send_knock(*knock)
        await invite_again(federation, hydra, room)
        return shown

    monkeypatch.setattr(federation.calls, "send_knock", late)
    await federation.house.rooms.knocking.knock(alice, room.id, servers=["hydra.test"])
    client = federation.client(ALICE)
    await client.sync()
    assert client.has(room.id, "invite")
    assert not client.has(room.id, "knock")


async def test_a_knock_nobody_takes(database: Database, hydra: RemoteServer) -> None:
    federation = await Federation.open(database, hydra)
    refuse(hydra, "knock", 403, "M_FORBIDDEN")
    with pytest.raises(Forbidden):
        await federation.house.rooms.knocking.knock(alice, "!x:hydra.test")
    with pytest.raises(NotFound):
        await federation.house.rooms.knocking.knock(alice, "!" + "x" * 43)
    client = federation.client(ALICE)
    await client.sync()
    assert not client.last["rooms"]["knock"]
