# SPDX-License-Identifier: Apache-2.0
"""Invites of our users by other servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from federation.serving.invite_state import MOST_ENTRIES, MOST_WHOLE
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import essential_bytes
from homeserver.protocol.room_versions import room_version
from homeserver.protocol.signing import check_event_signatures
from tests.federation.membership_serving.inviting import FarRoom, send_invite, standing
from tests.federation.membership_serving.world import US, V1, VERSIONS, Serving, Visitor
from tests.federation.servers import RemoteServer
from tests.rooms.services_fixture import alice, bob


def stripped(pdu: dict[str, Any]) -> dict[str, Any]:
    """The four fields that clients see."""
    return {key: pdu[key] for key in ("content", "sender", "state_key", "type")}


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_invite_is_signed_and_shown(serving: Serving, hydra: Visitor, version: str) -> None:
    """The event comes back as it was with our signature added, and our user is invited."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, version)
    invite = room.invite().event
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id)
    assert answer.status == 200, answer.raw
    signed = Event.from_pdu(answer.json["event"], room_version(version))
    assert signed.event_id == invite.event_id
    assert {**signed.pdu, "signatures": None} == {**invite.pdu, "signatures": None}
    assert set(signed.pdu["signatures"]) == {US, hydra.server.name}
    check_event_signatures(signed, {hydra.server.name: hydra.server.verify_keys})
    ours = signed.pdu["signatures"][US][serving.signer.key.key_id]
    assert serving.signer.key.verify_key.verifies(essential_bytes(signed.pdu, signed.room_version), ours)
    found = await standing(serving, room)
    assert found is not None
    assert found[0] == "invite"
    shown = json.loads(found[1])
    assert [entry["type"] for entry in shown] == ["m.room.create", "m.room.name"]
    assert all(entry.keys() == {"content", "sender", "state_key", "type"} for entry in shown)


async def test_the_first_version_of_the_endpoint(serving: Serving, hydra: Visitor) -> None:
    """The event is the body, the room's state is within `unsigned`; the room's version is 1, or 2 if it says so."""
    for version in ("1", "2"):
        user_id = f"@user{version}:{US}"
        await serving.add_user(user_id)
        room = FarRoom(hydra.server, version)
        invite = room.invite(user_id).event
        answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, under=V1)
        assert answer.status == 200, answer.raw
        status, body = answer.json
        assert (status, set(body["event"]["signatures"])) == (200, {US, hydra.server.name})
        assert "unsigned" not in body["event"]
        assert str((await serving.head(room.room_id)).version) == version


async def test_an_invite_is_taken_once(serving: Serving, hydra: Visitor) -> None:
    """And answered as often as it comes."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    invite = room.invite().event
    for _ in range(2):
        answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id)
        assert answer.status == 200


async def test_nobody_says_for_others_of_what_version_a_room_is(serving: Serving, hydra: Visitor) -> None:
    """An invite to a room of which nothing else is known is taken whatever version an earlier one told."""
    await serving.add_user(alice.user_id)
    await serving.add_user(bob.user_id)
    room = FarRoom(hydra.server, "11")
    lie = FarRoom(hydra.server, "1", room_id=room.room_id).invite(bob.user_id).event
    for event, version in ((lie, "1"), (room.invite().event, "11")):
        answer = await send_invite(serving, room, event.pdu, event_id=event.event_id, version=version)
        assert answer.status == 200, answer.raw
    assert str((await serving.head(room.room_id)).version) == "11"


async def test_a_version_that_we_do_not_speak(serving: Serving, hydra: Visitor) -> None:
    """400, and it is named."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    invite = room.invite().event
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, version="org.example.99")
    assert (answer.status, answer.errcode) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
    assert answer.json["room_version"] == "org.example.99"


async def test_who_cannot_be_invited(serving: Serving, hydra: Visitor) -> None:
    """Nobody, the deactivated, who ignores the inviter, in the same words; who blocks invites, by a code of its own."""
    await serving.add_user(alice.user_id)
    await serving.add_user("@ignorer:localhost")
    serving.ignoring.by_user["@ignorer:localhost"] = frozenset((hydra.user_id,))
    await serving.add_user(bob.user_id, deactivated=True)
    serving.house.world.blocked.add(alice.user_id)
    room = FarRoom(hydra.server, "11")
    for user_id, errcode in (
        ("@nobody:localhost", "M_FORBIDDEN"),
        (bob.user_id, "M_FORBIDDEN"),
        ("@ignorer:localhost", "M_FORBIDDEN"),
        (alice.user_id, "M_INVITE_BLOCKED"),
    ):
        invite = room.invite(user_id).event
        answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id)
        assert (answer.status, answer.errcode) == (403, errcode)
        if errcode == "M_FORBIDDEN":
            assert answer.json["error"] == f"{user_id} cannot be invited"
        assert await standing(serving, room, user_id) is None


async def test_an_event_that_is_not_signed_by_its_server(serving: Serving, hydra: Visitor) -> None:
    """The request was, but that is not enough."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    invite = room.invite().event
    thief = RemoteServer("hydra.test", key=RemoteServer("thief.test").key)
    empty: dict[str, Any] = {}
    for signatures in (empty, thief.sign_pdu({**invite.pdu, "signatures": {}}, "11")["signatures"]):
        pdu = {**invite.pdu, "signatures": signatures}
        answer = await send_invite(serving, room, pdu, event_id=invite.event_id)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_a_third_party_invite_must_be_signed_here_too(serving: Serving, hydra: Visitor) -> None:
    """In rooms such an event needs no signature of its sender's server; at our door it does."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    token = {"mxid": alice.user_id, "token": "abc", "signatures": {"id.test": {"ed25519:0": "AAAA"}}}
    invite = room.invite(third_party_invite={"display_name": "A", "signed": token}).event
    unsigned = {**invite.pdu, "signatures": {}}
    answer = await send_invite(serving, room, unsigned, event_id=invite.event_id)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert await standing(serving, room) is None
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id)
    assert answer.status == 200, answer.raw


async def test_an_invite_to_a_room_we_are_in(serving: Serving, hydra: Visitor) -> None:
    """It is the room's: its rules decide, and it stands in it."""
    await serving.add_user(bob.user_id)
    room_id = await serving.house.public(version="11")
    levels = dict((await serving.head(room_id)).content("m.room.power_levels"))
    await serving.house.set(alice, room_id, "m.room.power_levels", {**levels, "invite": 0})
    assert (await hydra.join(room_id)).status == 200
    template = (await hydra.make("leave", room_id)).json["event"]
    content = {"membership": "invite"}
    pdu = hydra.forged(template, "11", state_key=bob.user_id, content=content, origin=None)
    invite = Event.from_pdu(pdu, room_version("11"))
    room = FarRoom(hydra.server, "11")
    answer = await send_invite(serving, room, pdu, event_id=invite.event_id, room_id=room_id, shown=[])
    assert answer.status == 200, answer.raw
    assert set(answer.json["event"]["signatures"]) == {US, hydra.server.name}
    assert (await serving.head(room_id)).membership(bob.user_id) == "invite"


async def test_a_room_of_ours_that_the_server_is_not_in(serving: Serving, hydra: Visitor) -> None:
    """403 and no signature, however much the event claims that is not known here; also for who was in it once."""
    await serving.add_user(bob.user_id)
    room_id = await serving.house.public(version="11")
    room = FarRoom(hydra.server, "11")
    pdu = hydra.forged(room.invite(bob.user_id).event.pdu, "11", room_id=room_id)
    event_id = Event.from_pdu(pdu, room_version("11")).event_id

    async def is_refused() -> None:
        answer = await send_invite(serving, room, pdu, event_id=event_id, room_id=room_id)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert b"signatures" not in answer.raw
        assert (await serving.head(room_id)).membership(bob.user_id) is None

    await is_refused()
    assert (await hydra.join(room_id)).status == 200
    gone = (await hydra.filled("leave", room_id)).event
    assert (await hydra.send("leave", room_id, gone.pdu, event_id=gone.event_id)).status == 200
    await is_refused()


async def test_a_room_that_shuts_the_server_out(serving: Serving, hydra: Visitor) -> None:
    """403, for a room we are in."""
    await serving.add_user(bob.user_id)
    room_id = await serving.house.public(version="11")
    await serving.house.set(
        alice, room_id, "m.room.server_acl", {"allow": ["*"], "deny": [hydra.server.name]}
    )
    room = FarRoom(hydra.server, "11")
    pdu = hydra.forged(room.invite(bob.user_id).event.pdu, "11", room_id=room_id)
    event_id = Event.from_pdu(pdu, room_version("11")).event_id
    answer = await send_invite(serving, room, pdu, event_id=event_id, room_id=room_id)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


# What is shown of the room.


async def test_version_12_wants_the_create_event_proven(
    serving: Serving, hydra: Visitor, other: Visitor
) -> None:
    """Whole, signed, and of the room by its hash; in earlier versions what is sent is what is shown."""
    await serving.add_user(alice.user_id)
    room, another = FarRoom(hydra.server, "12"), FarRoom(other.server, "12")
    create, name = room.create.event.pdu, room.name.event.pdu
    invite = room.invite().event
    for shown in (
        [],
        [name],
        [stripped(create), name],
        [another.create.event.pdu, name],
        [{**create, "signatures": {}}, name],
        [{**create, "sender": "@forged:hydra.test"}, name],
        [create, another.name.event.pdu],
        [create, {**name, "depth": "deep"}],
        [create] * (MOST_WHOLE + 1),
    ):
        answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, shown=shown)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert await standing(serving, room) is None
    shown = [{**name, "signatures": {}}, create]
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, shown=shown)
    assert answer.status == 200
    found = await standing(serving, room)
    assert found is not None
    assert json.loads(found[1]) == [stripped(create)]


@pytest.mark.parametrize("version", ["11", "12"])
async def test_stripped_state_of_old_is_shown(serving: Serving, hydra: Visitor, version: str) -> None:
    """As servers sent it before specification 1.16, and many do; only the create event must be more than that."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, version)
    invite = room.invite().event
    name = stripped(room.name.event.pdu)
    shown = [name, room.create.event.pdu]
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, shown=shown)
    assert answer.status == 200, answer.raw
    found = await standing(serving, room)
    assert found is not None
    assert json.loads(found[1]) == [stripped(room.create.event.pdu), name]


async def test_too_much_to_show(serving: Serving, hydra: Visitor) -> None:
    """What a server makes up to be shown is bounded by number, and the whole request by size."""
    await serving.add_user(alice.user_id)
    room = FarRoom(hydra.server, "11")
    invite = room.invite().event
    entry = stripped(room.name.event.pdu)
    many = [{**entry, "state_key": str(number)} for number in range(MOST_ENTRIES + 1)]
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, shown=many)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    large = [{**entry, "content": {"name": "x" * 2_000_000}}]
    answer = await send_invite(serving, room, invite.pdu, event_id=invite.event_id, shown=large)
    assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")
