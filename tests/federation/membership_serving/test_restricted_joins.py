# SPDX-License-Identifier: Apache-2.0
"""Joins to rooms that members of other rooms may join: who vouches, and whose signature is on it."""

from __future__ import annotations

from typing import Any

import pytest

from federation.serving.restricted_joins import AUTHORISER
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import room_version
from homeserver.protocol.signing import check_event_signatures
from tests.federation.membership_serving.world import US, Serving, Visitor, id_of
from tests.rooms.services_fixture import alice, bob

VERSIONS = ("8", "10", "11", "12")


async def restricted(serving: Serving, version: str, *allowed: str, rule: str = "restricted") -> str:
    """A room of Alice's that members of those rooms may join."""
    room_id = await serving.house.create(preset="private_chat", version=version)
    allow = [{"type": "m.room_membership", "room_id": each} for each in allowed]
    await serving.house.set(alice, room_id, "m.room.join_rules", {"join_rule": rule, "allow": allow})
    return room_id


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_member_of_an_allowed_room_joins(serving: Serving, hydra: Visitor, version: str) -> None:
    """The template names who vouches, and the join that goes to the room has our signature besides theirs."""
    lobby = await serving.house.public(version=version)
    room_id = await restricted(serving, version, lobby)
    assert (await hydra.make("join", room_id)).status == 403
    assert (await hydra.join(lobby)).status == 200
    template = (await hydra.make("join", room_id)).json
    assert template["event"]["content"] == {"membership": "join", AUTHORISER: alice.user_id}
    answer = await hydra.join(room_id)
    assert answer.status == 200, answer.raw
    event = Event.from_pdu(answer.json["event"], room_version(version))
    keys = {
        US: {serving.signer.key.key_id: serving.signer.key.verify_key},
        hydra.server.name: hydra.server.verify_keys,
    }
    check_event_signatures(event, keys)
    assert set(event.pdu["signatures"]) == {US, hydra.server.name}
    stored = (await serving.house.engine.events.by_ids((event.event_id,)))[event.event_id]
    assert f'"{US}"' in stored.pdu


async def test_an_invited_user_needs_nobody_to_vouch(serving: Serving, hydra: Visitor) -> None:
    """The invite is enough."""
    room_id = await restricted(serving, "11", "!elsewhere:hydra.test")
    await invite(serving, room_id, hydra.user_id)
    template = (await hydra.make("join", room_id)).json
    assert template["event"]["content"] == {"membership": "join"}
    assert (await hydra.join(room_id)).status == 200


async def test_conditions_that_cannot_be_checked_here(serving: Serving, hydra: Visitor) -> None:
    """This server is not in the room that is named: another may know."""
    room_id = await restricted(serving, "11", "!elsewhere:hydra.test")
    answer = await hydra.make("join", room_id)
    assert (answer.status, answer.errcode) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")


async def test_conditions_not_met(serving: Serving, hydra: Visitor) -> None:
    """403 where all could be checked, or none make sense."""
    lobby = await serving.house.public(version="11")
    for allowed in ((lobby,), ()):
        answer = await hydra.make("join", await restricted(serving, "11", *allowed))
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_nobody_of_ours_may_let_them_in(serving: Serving, hydra: Visitor) -> None:
    """The conditions are met, but our only member has no power to invite."""
    lobby = await serving.house.public(version="11")
    room_id = await restricted(serving, "11", lobby)
    assert (await hydra.join(lobby)).status == 200
    levels: dict[str, Any] = dict((await serving.head(room_id)).content("m.room.power_levels"))
    levels |= {"invite": 60, "users": {**levels["users"], alice.user_id: 100}}
    await serving.house.set(alice, room_id, "m.room.power_levels", levels)
    await serving.house.set(
        alice, room_id, "m.room.power_levels", {**levels, "users": {alice.user_id: 50}, "invite": 60}
    )
    answer = await hydra.make("join", room_id)
    assert (answer.status, answer.errcode) == (400, "M_UNABLE_TO_GRANT_JOIN")


async def test_knock_restricted_lets_members_of_other_rooms_join(serving: Serving, hydra: Visitor) -> None:
    """As the restricted rule does."""
    lobby = await serving.house.public(version="11")
    room_id = await restricted(serving, "11", lobby, rule="knock_restricted")
    assert (await hydra.join(lobby)).status == 200
    assert (await hydra.join(room_id)).status == 200


async def test_conditions_are_checked_again_when_the_join_comes(serving: Serving, hydra: Visitor) -> None:
    """Who left the other room meanwhile gets no signature of ours."""
    lobby = await serving.house.public(version="11")
    room_id = await restricted(serving, "11", lobby)
    assert (await hydra.join(lobby)).status == 200
    event = (await hydra.filled("join", room_id)).event
    leave = (await hydra.filled("leave", lobby)).event
    assert (await hydra.send("leave", lobby, leave.pdu, event_id=leave.event_id)).status == 200
    answer = await hydra.send("join", room_id, event.pdu, event_id=event.event_id)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("authoriser", [bob.user_id, "@nobody:localhost"])
async def test_who_vouches_must_be_able_to(serving: Serving, hydra: Visitor, authoriser: str) -> None:
    """A user of ours who is in the room with the power to invite, whoever the join names."""
    lobby = await serving.house.public(version="11")
    room_id = await restricted(serving, "11", lobby)
    assert (await hydra.join(lobby)).status == 200
    event = (await hydra.filled("join", room_id)).event
    pdu = hydra.forged(event.pdu, "11", content={"membership": "join", AUTHORISER: authoriser})
    answer = await hydra.send("join", room_id, pdu, event_id=id_of(pdu, "11"))
    assert (answer.status, answer.errcode) == (400, "M_UNABLE_TO_GRANT_JOIN")


@pytest.mark.parametrize("authoriser", ["@alice:hydra.test", "nobody", 7])
async def test_only_ours_vouch_here(serving: Serving, hydra: Visitor, authoriser: Any) -> None:
    """Not their own server, which could let anybody in."""
    lobby = await serving.house.public(version="11")
    room_id = await restricted(serving, "11", lobby)
    assert (await hydra.join(lobby)).status == 200
    event = (await hydra.filled("join", room_id)).event
    pdu = hydra.forged(event.pdu, "11", content={"membership": "join", AUTHORISER: authoriser})
    answer = await hydra.send("join", room_id, pdu, event_id=id_of(pdu, "11"))
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def invite(serving: Serving, room_id: str, user_id: str) -> None:
    """Alice invites a user of another server, who need not be asked for this."""

    def plan(_head: object) -> Any:
        from homeserver.rooms.engine import Draft

        return (Draft("m.room.member", alice.user_id, {"membership": "invite"}, user_id),)

    await serving.house.engine.engine.write(room_id, plan, users=(alice.user_id, user_id))
