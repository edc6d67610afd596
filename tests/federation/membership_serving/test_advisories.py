# SPDX-License-Identifier: Apache-2.0
"""Holes that other servers had: what a hostile server sends to the handshakes does nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import room_version
from tests.federation.membership_serving.inviting import FarRoom, send_invite, standing
from tests.federation.membership_serving.world import US, V1, V2, Serving, Visitor, id_of
from tests.rooms.services_fixture import alice, bob
from tests.sync.sync_fixture import Process

KINDS = ("join", "leave", "knock")
_UNDER = {"join": V2, "leave": V2, "knock": V1}


async def filled(serving: Serving, hydra: Visitor, kind: str) -> tuple[str, Event]:
    """A room and a good event for it."""
    if kind == "knock":
        room_id = await serving.house.create(preset="private_chat", version="11")
        await serving.house.set(alice, room_id, "m.room.join_rules", {"join_rule": "knock"})
    else:
        room_id = await serving.house.public(version="11")
    if kind == "leave":
        assert (await hydra.join(room_id)).status == 200
    return room_id, (await hydra.filled(kind, room_id)).event


async def refused(
    serving: Serving, hydra: Visitor, kind: str, pdu: Any, *, room_id: str, event_id: str
) -> None:
    """Send it, be refused, and see that the room is as it was."""
    before = (await serving.head(room_id)).extremities
    answer = await hydra.send(kind, room_id, pdu, event_id=event_id, under=_UNDER[kind])
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM"), answer.raw
    assert (await serving.head(room_id)).extremities == before


@pytest.mark.parametrize("kind", KINDS)
async def test_advisory_04_room_in_path_differs(serving: Serving, hydra: Visitor, kind: str) -> None:
    """An event of one room is not taken under the name of another."""
    _, event = await filled(serving, hydra, kind)
    elsewhere, _ = await filled(serving, hydra, kind)
    await refused(serving, hydra, kind, event.pdu, room_id=elsewhere, event_id=event.event_id)


async def test_advisory_04_room_in_path_differs_for_invites(serving: Serving, hydra: Visitor) -> None:
    """In both versions of the endpoint, and for exchanged third-party invites."""
    await serving.add_user(alice.user_id)
    room, another = FarRoom(hydra.server, "1"), FarRoom(hydra.server, "1")
    invite = room.invite().event
    for under in (V1, V2):
        answer = await send_invite(
            serving, room, invite.pdu, event_id=invite.event_id, room_id=another.room_id, under=under
        )
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    body = {
        "room_id": room.room_id,
        "type": "m.room.member",
        "sender": alice.user_id,
        "state_key": hydra.user_id,
        "content": {"membership": "invite", "third_party_invite": {"display_name": "", "signed": {}}},
    }
    target = f"{V1}/exchange_third_party_invite/{another.room_id}"
    answer = await serving.signed(hydra.server, "PUT", target, body)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("kind", KINDS)
async def test_advisory_04_event_in_path_differs(serving: Serving, hydra: Visitor, kind: str) -> None:
    """Nor under another id."""
    room_id, event = await filled(serving, hydra, kind)
    await refused(serving, hydra, kind, event.pdu, room_id=room_id, event_id="$" + "x" * 43)


_CHANGES: dict[str, Callable[[Event], dict[str, Any]]] = {
    "another type": lambda _event: {"type": "m.room.power_levels"},
    "a message": lambda _event: {"type": "m.room.message", "state_key": None},
    "no state key": lambda _event: {"state_key": None},
    "for another": lambda _event: {"state_key": "@else:hydra.test"},
    "for one of ours": lambda _event: {"state_key": bob.user_id},
    "another membership": lambda _event: {"content": {"membership": "ban"}},
    "no membership": lambda _event: {"content": {}},
    "a membership that is none": lambda _event: {"content": {"membership": ["join"]}},
    "parents nobody has": lambda event: {"prev_events": ["$" + "p" * 43]},
    "authority nobody has": lambda event: {"auth_events": ["$" + "a" * 43]},
    "no depth": lambda _event: {"depth": -1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", _CHANGES)
async def test_a_signed_event_is_what_the_endpoint_is_for(
    serving: Serving, hydra: Visitor, kind: str, change: str
) -> None:
    """However well it is signed."""
    room_id, event = await filled(serving, hydra, kind)
    pdu = hydra.forged(event.pdu, "11", **_CHANGES[change](event))
    await refused(serving, hydra, kind, pdu, room_id=room_id, event_id=id_of(pdu, "11"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_that_is_no_event(serving: Serving, hydra: Visitor, kind: str) -> None:
    """Whatever JSON it is."""
    room_id, event = await filled(serving, hydra, kind)
    bodies: tuple[Any, ...] = ([], "event", 7, {}, [event.pdu])
    for body in bodies:
        answer = await hydra.send(kind, room_id, body, event_id=event.event_id, under=_UNDER[kind])
        assert answer.status == 400
        assert answer.errcode in ("M_BAD_JSON", "M_INVALID_PARAM")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_hash_or_signature_is_refused(serving: Serving, hydra: Visitor, kind: str) -> None:
    """A new event is taken whole or not at all."""
    room_id, event = await filled(serving, hydra, kind)
    changed = {**event.pdu, "content": {**event.pdu["content"], "displayname": "Else"}}
    await refused(serving, hydra, kind, changed, room_id=room_id, event_id=event.event_id)
    unsigned = {**event.pdu, "signatures": {}}
    await refused(serving, hydra, kind, unsigned, room_id=room_id, event_id=event.event_id)
    forged = {**event.pdu, "signatures": {hydra.server.name: {hydra.server.key.key_id: "A" * 86}}}
    await refused(serving, hydra, kind, forged, room_id=room_id, event_id=event.event_id)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_user_of_another_server_is_not_spoken_for(
    serving: Serving, hydra: Visitor, other: Visitor, kind: str
) -> None:
    """Even by an event that their own server signed: it would have sent it itself."""
    room_id, event = await filled(serving, hydra, kind)
    await refused(serving, other, kind, event.pdu, room_id=room_id, event_id=event.event_id)


@pytest.mark.parametrize("number", [2**53, 10**20, 1.5])
async def test_advisory_05_numbers_that_events_cannot_carry(
    serving: Serving, hydra: Visitor, number: float
) -> None:
    """In a join as in an invite, from room version 6 on."""
    room_id, event = await filled(serving, hydra, "join")
    pdu = {**event.pdu, "content": {"membership": "join", "n": number}}
    await refused(serving, hydra, "join", pdu, room_id=room_id, event_id=event.event_id)
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    invite = room.invite().event
    pdu = {**invite.pdu, "content": {"membership": "invite", "n": number}}
    answer = await send_invite(serving, room, pdu, event_id=invite.event_id)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_advisory_13_and_10_the_uninvited_learn_nothing(
    serving: Serving, hydra: Visitor, other: Visitor
) -> None:
    """A room that may not be joined shows neither members nor auth events, whatever is asked of it."""
    room_id = await serving.house.create(preset="private_chat", version="11", name="Hidden name")
    for kind in KINDS:
        answer = await hydra.make(kind, room_id)
        assert answer.status == 403
        assert alice.user_id.encode() not in answer.raw
        assert b"Hidden name" not in answer.raw
    open_id = await serving.house.public(version="11")
    event = (await hydra.filled("join", open_id)).event
    pdu = hydra.forged(event.pdu, "11", room_id=room_id)
    answer = await hydra.send("join", room_id, pdu, event_id=id_of(pdu, "11"))
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert b"Hidden name" not in answer.raw


async def test_advisory_16_oversize_state_blocks_nothing(serving: Serving, hydra: Visitor) -> None:
    """What goes with an invite is bounded before it is kept; the invite itself is bounded as events are."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    invite = room.invite().event
    entry = {"type": "m.room.topic", "state_key": "", "sender": hydra.user_id}
    shown = [room.create.event.pdu] + [
        {**entry, "state_key": str(number), "content": {"topic": "x" * 20_000}} for number in range(20)
    ]
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, shown=shown)
    assert answer.status == 200
    found = await standing(serving, room)
    assert found is not None
    assert len(found[1]) <= 65_536
    assert json.loads(found[1])[0]["type"] == "m.room.create"
    large = hydra.forged(invite.pdu, "11", content={"membership": "invite", "reason": "x" * 70_000})
    answer = await send_invite(serving, room, large, event_id=id_of(large, "11"))
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


_BAD_STATE: list[Any] = [
    None,
    7,
    "state",
    [],
    {},
    {"type": "m.room.name"},
    {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": "name"},
    {"type": "m.room.name", "state_key": None, "sender": "@a:b", "content": {}},
    {"type": ["m.room.name"], "state_key": "", "sender": "@a:b", "content": {}},
    {"type": "m.room.name", "state_key": "", "sender": "nobody", "content": {}},
    {"type": "m.room.name", "state_key": "x" * 300, "sender": "@a:b", "content": {}},
    {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": {"n": 2**70}},
]


async def test_advisory_23_a_bad_invite_breaks_no_response(serving: Serving, hydra: Visitor) -> None:
    """What is no stripped state is not kept, and what is kept can be shown."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    invite = room.invite(displayname=7, avatar_url=["x"], is_direct="\0").event
    good = {"type": "m.room.name", "state_key": "", "sender": "@a:hydra.test", "content": {"name": "N"}}
    shown = [*_BAD_STATE, room.create.event.pdu, good]
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, shown=shown)
    assert answer.status == 200, answer.raw
    found = await standing(serving, room)
    assert found is not None
    entries = json.loads(found[1])
    assert [entry["type"] for entry in entries] == ["m.room.create", "m.room.name"]
    assert entries[1] == good
    client = Process.on(serving.house.engine).client(alice.user_id)
    await client.sync()
    events = client.room(room.room_id, "invite")["invite_state"]["events"]
    assert [event["type"] for event in events] == ["m.room.create", "m.room.name", "m.room.member"]
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, shown="all of it")
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


_NO_INVITES: dict[str, dict[str, Any]] = {
    "a join": {"content": {"membership": "join"}},
    "a ban": {"content": {"membership": "ban"}},
    "no membership": {"content": {}},
    "power levels": {"type": "m.room.power_levels", "state_key": "", "content": {"users": {}}},
    "power levels for a user": {"type": "m.room.power_levels"},
    "a message": {"type": "m.room.message", "state_key": None},
    "of a user of theirs": {"state_key": "@else:hydra.test"},
    "of nobody": {"state_key": ""},
    "of a server": {"state_key": "localhost"},
    "in another room": {"room_id": "!victim:localhost"},
}


@pytest.mark.parametrize("change", _NO_INVITES)
async def test_advisory_29_nothing_but_an_invite_is_signed(
    serving: Serving, hydra: Visitor, change: str
) -> None:
    """An event that is not an invite of a user of ours gets no signature of ours, however it comes."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    pdu = hydra.forged(room.invite().event.pdu, "11", **_NO_INVITES[change])
    answer = await send_invite(serving, room, pdu, event_id=id_of(pdu, "11"))
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM"), answer.raw
    assert serving.signer.key.key_id.encode() not in answer.raw


async def test_advisory_29_no_event_in_our_users_name_is_signed(
    serving: Serving, hydra: Visitor, other: Visitor
) -> None:
    """Neither a join by our user nor an invite by one, nor one by a user of a third server."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    for sender in (alice.user_id, bob.user_id, other.user_id):
        pdu = hydra.forged(room.invite().event.pdu, "11", sender=sender)
        answer = await send_invite(serving, room, pdu, event_id=id_of(pdu, "11"))
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_advisory_29_a_restricted_join_signs_joins_only(serving: Serving, hydra: Visitor) -> None:
    """Naming a user of ours to vouch gets a signature of ours on nothing but a join that they could vouch for."""
    room_id = await serving.house.public(version="11")
    event = (await hydra.filled("join", room_id)).event
    for changes in (
        {"type": "m.room.power_levels", "content": {"join_authorised_via_users_server": alice.user_id}},
        {"content": {"membership": "ban", "join_authorised_via_users_server": alice.user_id}},
        {"sender": alice.user_id, "state_key": alice.user_id},
    ):
        pdu = hydra.forged(event.pdu, "11", **changes)
        answer = await hydra.send("join", room_id, pdu, event_id=id_of(pdu, "11"))
        assert answer.status in (400, 403)
    rows = await serving.database.fetch(
        "test_events", "SELECT pdu FROM events WHERE sender = %s", (hydra.user_id,)
    )
    assert rows == []


async def test_advisory_29_signatures_said_to_be_ours_do_not_stay(serving: Serving, hydra: Visitor) -> None:
    """What comes back has one signature under our name: the one we made."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    invite = room.invite().event
    signatures = {**invite.pdu["signatures"], US: {"ed25519:fake": "A" * 86}}
    answer = await send_invite(
        serving, room, {**invite.pdu, "signatures": signatures}, event_id=invite.event_id
    )
    assert answer.status == 200
    signed = Event.from_pdu(answer.json["event"], room_version("11"))
    assert set(signed.pdu["signatures"][US]) == {serving.signer.key.key_id}
