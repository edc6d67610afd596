# SPDX-License-Identifier: Apache-2.0
"""Invites from a hostile server, and what it answers to ours: what gets our signature, and what a client is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from homeserver.protocol.hashes import event_id_of
from homeserver.protocol.room_versions import room_version
from tests.federation.hostile.battlefield import OurRoom, TheirRoom, forged, unseen
from tests.federation.hostile.conftest import Raise
from tests.federation.hostile.hostile_server import V2, Answer, HostileServer, Json, segment
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.people import Person, Refused

BAD = "never to be seen"


def send_invite(room: TheirRoom, pdu: Json, *, state: Any = None, version: Any = None) -> Answer:
    """Ask our server to sign an event as an invite."""
    event_id = pdu.get("event_id") or event_id_of(pdu, room_version(str(room.version)))
    shown = [room.state["m.room.create", ""].event.pdu] if state is None else state
    body = {"event": pdu, "room_version": version or str(room.version), "invite_room_state": shown}
    return room.hostile.request("PUT", f"{V2}/invite/{segment(room.id)}/{segment(event_id)}", body)


def invite_of(room: TheirRoom, whom: Person, **content: Any) -> Json:
    """An honest one."""
    content = {"membership": "invite", **content}
    return dict(room.event("m.room.member", content, whom.user_id, sender=room.hostile.bob).event.pdu)


NO_INVITES: dict[str, Callable[[Person, TheirRoom], Json]] = {
    "a join of our user": lambda alice, room: {"content": {"membership": "join"}, "sender": alice.user_id},
    "a join": lambda alice, room: {"content": {"membership": "join"}},
    "a ban": lambda alice, room: {"content": {"membership": "ban"}},
    "by our user": lambda alice, room: {"sender": alice.user_id},
    "of their own user": lambda alice, room: {"state_key": room.hostile.mallory},
    "of nobody here": lambda alice, room: {"state_key": f"@nobody:{alice.server.server_name}"},
    "power levels": lambda alice, room: {"type": "m.room.power_levels", "state_key": ""},
    "a message": lambda alice, room: {"type": "m.room.message", "state_key": None},
    "an event of our room": lambda alice, room: {"room_id": alice.create_room()},
    "a great depth": lambda alice, room: {"depth": -1},
    "too large": lambda alice, room: {"content": {"membership": "invite", "x": "x" * 66_000}},
}


@pytest.mark.parametrize("kind", NO_INVITES)
def test_advisory_29_what_is_no_invite(alice: Person, hostile: HostileServer, kind: str) -> None:
    """It gets no signature of ours, and our user hears nothing of it."""
    room = TheirRoom(hostile)
    pdu = forged(room, invite_of(room, alice), **NO_INVITES[kind](alice, room))
    answer = send_invite(room, pdu)
    assert answer.status in {400, 403, 404}, answer
    assert "signatures" not in answer.raw.decode()
    alice.sync()
    assert room.id not in alice.invited
    assert send_invite(room, invite_of(room, alice)).status == 200
    alice.is_invited(room.id)


BAD_STATE: list[Any] = [
    None,
    {"type": "m.room.name"},
    {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": {"name": {"x": []}}},
    {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": None},
    {"type": "m.room.avatar", "state_key": "", "sender": "@a:b", "content": {"url": 7}},
    {"type": "m.room.encryption", "state_key": "", "sender": "@a:b", "content": {"algorithm": []}},
    {"type": "m.room.join_rules", "state_key": "", "sender": "@a:b", "content": {"join_rule": {}}},
    {"type": "m.room.member", "state_key": "@a:b", "sender": "@a:b", "content": {"membership": 1}},
    {"type": "m.room.topic", "state_key": "", "sender": "@a:b", "content": {"topic": "x" * 50_000}},
    {"type": "m.room.topic", "state_key": "\0", "sender": "@a:b", "content": {"topic": "\0"}},
    {"type": "m.room.create", "state_key": "", "sender": "@a:b", "content": {"type": ["m.space"]}},
]


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
def test_advisory_23_an_invite_that_breaks_nothing(
    alice: Person, hostile: HostileServer, version: str
) -> None:
    """Whatever stands in it and beside it, our user is shown it and everything else, and can turn it down."""
    room, good = TheirRoom(hostile, version), TheirRoom(hostile)
    alice.join(good.id, hostile.name)
    pdu = invite_of(room, alice, displayname={"x": 1}, avatar_url=["y"], is_direct="\0", reason=[[]])
    answer = send_invite(room, pdu, state=[room.state["m.room.create", ""].event.pdu, *BAD_STATE])
    if answer.status == 200:
        alice.is_invited(room.id)
        for query in ({}, {"full_state": "true"}, {"filter": '{"room":{"timeline":{"limit":1}}}'}):
            told = alice.call("GET", "v3/sync", query=query)
            assert room.id in told["rooms"]["invite"] and good.id in told["rooms"]["join"]
            for event in told["rooms"]["invite"][room.id]["invite_state"]["events"]:
                assert isinstance(event["content"], dict) and isinstance(event["type"], str)
        alice.membership(room.id, "leave")
        alice.is_out(room.id)
    else:
        assert answer.status == 400, answer
        assert send_invite(room, invite_of(room, alice)).status == 200
    good.goes_on(alice)


def test_advisory_16_an_oversize_invite_state(alice: Person, hostile: HostileServer) -> None:
    """It is cut to size, and what our user does then still reaches everybody."""
    room = TheirRoom(hostile)
    topic = {"type": "m.room.topic", "state_key": "", "sender": hostile.bob}
    shown = [
        room.state["m.room.create", ""].event.pdu,
        *({**topic, "type": f"t{n}", "content": {"topic": "x" * 30_000}} for n in range(20)),
    ]
    assert send_invite(room, invite_of(room, alice), state=shown).status == 200
    alice.is_invited(room.id)
    assert len(str(alice.invited[room.id])) < 100_000
    flood = [{**topic, "type": f"t{n}", "content": {}} for n in range(5_000)]
    assert send_invite(room, invite_of(room, alice, n=1), state=flood).status == 400
    room.resident.twist_template = lambda answer: None
    alice.join(room.id, hostile.name)
    room.goes_on(alice)


TWISTS: dict[str, Callable[[Json], Any]] = {
    "nothing": lambda pdu: None,
    "another event": lambda pdu: {**pdu, "type": "m.room.power_levels"},
    "another user": lambda pdu: {**pdu, "state_key": "@else:localhost"},
    "a join": lambda pdu: {**pdu, "content": {"membership": "join"}},
    "an event without signatures": lambda pdu: {**pdu, "signatures": {}},
    "a list": lambda pdu: [pdu],
}


@pytest.mark.parametrize("twist", TWISTS)
def test_advisory_29_an_invite_that_comes_back_as_something_else(
    alice: Person, hostile: HostileServer, twist: str
) -> None:
    """What they give back in place of our invite goes nowhere: it is our own event, or the invite fails."""
    room = OurRoom(alice, hostile)
    before = alice.state(room.id)
    carol = hostile.user("carol")
    hostile.on(
        "PUT",
        f"{V2}/invite/{{room}}/{{event}}",
        lambda request: {"event": TWISTS[twist](request.json["event"])},
    )
    with pytest.raises(Refused) as refusal:
        alice.call("POST", f"v3/rooms/{segment(room.id)}/invite", {"user_id": carol})
    assert refusal.value.status in {400, 403, 502}
    assert alice.state(room.id) == before
    room.goes_on()


def test_an_invite_into_a_room_of_ours(alice: Person, rising: Raise, lares: LaresServer) -> None:
    """From a server that is not in it, by a user who is not: our user is not invited, whatever was answered."""
    hostile, stranger = rising("localhost"), rising("localhost")
    room = OurRoom(alice, hostile, preset="public_chat")
    guest = lares.register(f"guest{id(room) % 10**9}")
    elsewhere = TheirRoom(stranger)
    pdu = forged(elsewhere, invite_of(elsewhere, guest), room_id=room.id)
    elsewhere.room_id = room.id
    send_invite(elsewhere, pdu)
    guest.sync()
    assert room.id not in guest.invited
    room.goes_on()
    unseen(room, alice, stranger.name)
