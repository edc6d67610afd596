# SPDX-License-Identifier: Apache-2.0
"""Leaves and knocks of other servers' users."""

from __future__ import annotations

import pytest

from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import room_version
from tests.federation.membership_serving.test_restricted_joins import invite
from tests.federation.membership_serving.world import SPEAKS, V1, VERSIONS, Serving, Visitor, id_of
from tests.rooms.services_fixture import alice


async def knockable(serving: Serving, version: str, rule: str = "knock") -> str:
    """A room of Alice's that may be knocked on."""
    room_id = await serving.house.create(preset="private_chat", version=version, name="The den")
    await serving.house.set(alice, room_id, "m.room.join_rules", {"join_rule": rule})
    return room_id


# Leaving.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("under", ["v1", "v2"])
async def test_a_member_leaves(serving: Serving, hydra: Visitor, version: str, under: str) -> None:
    """The last of their server: it is none of the room's any more."""
    room_id = await serving.house.public(version=version)
    assert (await hydra.join(room_id)).status == 200
    event = (await hydra.filled("leave", room_id)).event
    answer = await hydra.send(
        "leave", room_id, event.pdu, event_id=event.event_id, under=f"/_matrix/federation/{under}"
    )
    assert (answer.status, answer.json) == (200, [200, {}] if under == "v1" else {})
    head = await serving.head(room_id)
    assert head.membership(hydra.user_id) == "leave"
    assert hydra.server.name not in head.hosts


async def test_an_invite_is_rejected(serving: Serving, hydra: Visitor) -> None:
    """By a server that is not in the room."""
    room_id = await serving.house.create(preset="private_chat", version="11")
    await invite(serving, room_id, hydra.user_id)
    event = (await hydra.filled("leave", room_id, reason="no")).event
    assert (await hydra.send("leave", room_id, event.pdu, event_id=event.event_id)).status == 200
    assert (await serving.head(room_id)).membership(hydra.user_id) == "leave"


async def test_who_is_not_there_cannot_leave(serving: Serving, hydra: Visitor) -> None:
    """Nor who left, nor who is banned."""
    room_id = await serving.house.public(version="11")
    assert (await hydra.make("leave", room_id)).status == 403
    assert (await hydra.join(room_id)).status == 200
    event = (await hydra.filled("leave", room_id)).event
    assert (await hydra.send("leave", room_id, event.pdu, event_id=event.event_id)).status == 200
    assert (await hydra.make("leave", room_id)).status == 403
    await serving.house.rooms.banning.ban(alice, room_id, hydra.user_id)
    assert (await hydra.make("leave", room_id)).status == 403


async def test_nobody_is_kicked_by_a_leave(serving: Serving, hydra: Visitor) -> None:
    """A leave of another's is none of the sender's: 400."""
    room_id = await serving.house.public(version="11")
    assert (await hydra.join(room_id)).status == 200
    event = (await hydra.filled("leave", room_id)).event
    pdu = hydra.forged(event.pdu, "11", state_key=alice.user_id)
    answer = await hydra.send("leave", room_id, pdu, event_id=id_of(pdu, "11"))
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert (await serving.head(room_id)).is_joined(alice.user_id)


async def test_a_leave_is_taken_once(serving: Serving, hydra: Visitor) -> None:
    """And answered as often as it comes."""
    room_id = await serving.house.public(version="11")
    assert (await hydra.join(room_id)).status == 200
    event = (await hydra.filled("leave", room_id)).event
    for _ in range(2):
        assert (await hydra.send("leave", room_id, event.pdu, event_id=event.event_id)).status == 200


# Knocking.


@pytest.mark.parametrize("version", ["7", "10", "11", "12"])
async def test_a_knock_is_answered_with_what_may_be_shown(
    serving: Serving, hydra: Visitor, version: str
) -> None:
    """Whole events of the room, its create event among them (specification 1.16), and nothing of its members."""
    room_id = await knockable(serving, version)
    event = (await hydra.filled("knock", room_id, reason="let me in")).event
    answer = await hydra.send("knock", room_id, event.pdu, event_id=event.event_id, under=V1)
    assert answer.status == 200, answer.raw
    shown = answer.json["knock_room_state"]
    events = [Event.from_pdu(pdu, room_version(version)) for pdu in shown]
    assert {each.room_id for each in events} == {room_id}
    types = {each.type for each in events}
    assert {"m.room.create", "m.room.join_rules", "m.room.name"} <= types
    assert "m.room.member" not in types
    head = await serving.head(room_id)
    assert head.membership(hydra.user_id) == "knock"
    assert hydra.server.name not in head.hosts


@pytest.mark.parametrize(
    ("version", "rule"), [("11", "public"), ("11", "invite"), ("6", "knock"), ("8", "knock_restricted")]
)
async def test_where_one_may_not_knock(serving: Serving, hydra: Visitor, version: str, rule: str) -> None:
    """By the rule, or because the version knows none such."""
    room_id = await knockable(serving, version, rule)
    answer = await hydra.make("knock", room_id)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_who_may_not_knock(serving: Serving, hydra: Visitor) -> None:
    """Members, the invited, the banned."""
    room_id = await knockable(serving, "11")
    await invite(serving, room_id, hydra.user_id)
    assert (await hydra.make("knock", room_id)).status == 403
    assert (await hydra.join(room_id)).status == 200
    assert (await hydra.make("knock", room_id)).status == 403
    await serving.house.rooms.banning.ban(alice, room_id, hydra.user_id)
    assert (await hydra.make("knock", room_id)).status == 403


async def test_a_knocking_server_says_what_it_speaks(serving: Serving, hydra: Visitor) -> None:
    """`ver` is required, and must name the room's version."""
    room_id = await knockable(serving, "11")
    assert (await hydra.make("knock", room_id, query=[])).errcode == "M_MISSING_PARAM"
    answer = await hydra.make("knock", room_id, query=[("ver", "7")])
    assert (answer.errcode, answer.json["room_version"]) == ("M_INCOMPATIBLE_ROOM_VERSION", "11")
    assert (await hydra.make("knock", "!nowhere:localhost", query=SPEAKS)).status == 404


async def test_a_room_closed_after_the_template_takes_no_knock(serving: Serving, hydra: Visitor) -> None:
    """403, and nothing of the room is shown."""
    room_id = await knockable(serving, "11")
    event = (await hydra.filled("knock", room_id)).event
    await serving.house.set(alice, room_id, "m.room.join_rules", {"join_rule": "invite"})
    answer = await hydra.send("knock", room_id, event.pdu, event_id=event.event_id, under=V1)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_a_knock_is_withdrawn(serving: Serving, hydra: Visitor) -> None:
    """By leaving."""
    room_id = await knockable(serving, "11")
    event = (await hydra.filled("knock", room_id)).event
    assert (await hydra.send("knock", room_id, event.pdu, event_id=event.event_id, under=V1)).status == 200
    leave = (await hydra.filled("leave", room_id)).event
    assert (await hydra.send("leave", room_id, leave.pdu, event_id=leave.event_id)).status == 200
    assert (await serving.head(room_id)).membership(hydra.user_id) == "leave"
