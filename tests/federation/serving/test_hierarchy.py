# SPDX-License-Identifier: Apache-2.0
"""Spaces as other servers see them: what they could join or read, and nothing of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.rooms.creation.wishes import InitialState
from tests.federation.membership_serving.test_restricted_joins import invite
from tests.federation.membership_serving.world import Visitor
from tests.federation.serving.world import Reading
from tests.rooms.services_fixture import alice


async def space(serving: Reading, *children: str, **wishes: Any) -> str:
    """A public space with those children."""
    return await serving.house.create(
        creation_content={"type": "m.space"},
        preset="public_chat",
        version="11",
        initial_state=[InitialState("m.space.child", child, {"via": ["localhost"]}) for child in children],
        **wishes,
    )


async def ruled(serving: Reading, rule: str, *allowed: str, **wishes: Any) -> str:
    """A room of Alice's with that join rule."""
    room_id = await serving.house.create(preset="private_chat", version="11", **wishes)
    allow = [{"type": "m.room_membership", "room_id": each} for each in allowed]
    content = {"join_rule": rule, **({"allow": allow} if allowed else {})}
    await serving.house.set(alice, room_id, "m.room.join_rules", content)
    return room_id


async def test_what_a_server_sees_of_a_space(serving: Reading, hydra: Visitor) -> None:
    """Summaries of what it could join or read, the ids of what it could not, and nothing of what is not known here."""
    club = await serving.room()
    assert (await hydra.join(club)).status == 200
    elsewhere = await serving.room()
    seen = {
        "public": await serving.room(name="public"),
        "knock": await ruled(serving, "knock", name="knock"),
        "club": await ruled(serving, "restricted", club, name="club"),
        "invited": await ruled(serving, "invite", name="invited"),
        "open": await ruled(serving, "invite", name="open"),
    }
    await invite(serving, seen["invited"], hydra.user_id)
    await serving.house.set(
        alice, seen["open"], "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    shut = await serving.room()
    await serving.shut_out(shut, hydra)
    hidden = [await ruled(serving, "invite"), await ruled(serving, "restricted", elsewhere), shut]
    root = await space(serving, *seen.values(), *hidden, "!unknown:localhost", name="root")
    answer = await serving.get(hydra, "hierarchy", root)
    assert answer.status == 200, answer.raw
    assert set(answer.json) == {"room", "children", "inaccessible_children"}
    assert answer.json["room"]["name"] == "root"
    assert answer.json["room"]["room_type"] == "m.space"
    states = answer.json["room"]["children_state"]
    assert {state["state_key"] for state in states} == {*seen.values(), *hidden, "!unknown:localhost"}
    assert set(states[0]) == {"type", "state_key", "content", "sender", "origin_server_ts"}
    assert {room["name"] for room in answer.json["children"]} == set(seen)
    (restricted,) = [room for room in answer.json["children"] if room["name"] == "club"]
    assert restricted["allowed_room_ids"] == [club]
    assert sorted(answer.json["inaccessible_children"]) == sorted(hidden)


@pytest.mark.parametrize("rule", ["invite", "restricted"])
async def test_a_room_that_cannot_be_joined_is_not_there(serving: Reading, hydra: Visitor, rule: str) -> None:
    """In the same words as one that is not; by being in it, a server sees it."""
    room_id = await ruled(serving, rule, *(["!x:y"] if rule == "restricted" else []))
    unknown = await serving.get(hydra, "hierarchy", "!unknown:localhost")
    answer = await serving.get(hydra, "hierarchy", room_id)
    assert (answer.status, answer.json) == (404, unknown.json)
    await invite(serving, room_id, hydra.user_id)
    assert (await hydra.join(room_id)).status == 200
    answer = await serving.get(hydra, "hierarchy", room_id)
    assert answer.json["room"]["room_id"] == room_id
    assert answer.json["children"] == []
    await serving.shut_out(room_id, hydra)
    assert (await serving.get(hydra, "hierarchy", room_id)).status == 404


async def test_rooms_we_left_are_not_told_of(serving: Reading, hydra: Visitor) -> None:
    """What is known of them here is old."""
    room_id = await serving.room()
    root = await space(serving, room_id)
    await serving.house.rooms.leaving.leave(alice, room_id)
    assert (await serving.get(hydra, "hierarchy", room_id)).status == 404
    answer = (await serving.get(hydra, "hierarchy", root)).json
    assert (answer["children"], answer["inaccessible_children"]) == ([], [])


async def test_suggested_children_alone(serving: Reading, hydra: Visitor) -> None:
    """On request."""
    first, second = await serving.room(name="first"), await serving.room(name="second")
    root = await space(serving, first)
    content = {"via": ["localhost"], "suggested": True}
    await serving.house.set(alice, root, "m.space.child", content, second)
    answer = await serving.get(hydra, "hierarchy", root, query=[("suggested_only", "true")])
    assert [room["name"] for room in answer.json["children"]] == ["second"]
    assert [state["state_key"] for state in answer.json["room"]["children_state"]] == [second]
