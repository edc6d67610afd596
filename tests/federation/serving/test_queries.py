# SPDX-License-Identifier: Apache-2.0
"""Profiles, aliases and the list of rooms, as other servers ask for them."""

from __future__ import annotations

from homeserver.rooms.actor import Actor
from tests.federation.membership_serving.world import US, Visitor
from tests.federation.serving.world import Reading
from tests.rooms.services_fixture import User, alice, bob


async def test_profiles_of_our_users(serving: Reading, hydra: Visitor) -> None:
    """Whole or a field of it; users and fields there are not are not found, and others' users are none of ours."""
    shown = {"displayname": "Alice", "m.tz": "Europe/Berlin"}
    serving.profiles.profiles[alice.user_id] = shown
    query = [("user_id", alice.user_id)]
    assert (await serving.get(hydra, "query", "profile", query=query)).json == shown
    answer = await serving.get(hydra, "query", "profile", query=[*query, ("field", "m.tz")])
    assert answer.json == {"m.tz": "Europe/Berlin"}
    answer = await serving.get(hydra, "query", "profile", query=[*query, ("field", "avatar_url")])
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    answer = await serving.get(hydra, "query", "profile", query=[("user_id", bob.user_id)])
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    for user_id in ("@alice:hydra.test", "alice", "", "@alice"):
        answer = await serving.get(hydra, "query", "profile", query=[("user_id", user_id)])
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    answer = await serving.get(hydra, "query", "profile")
    assert (answer.status, answer.errcode) == (400, "M_MISSING_PARAM")


async def test_where_our_aliases_lead(serving: Reading, hydra: Visitor) -> None:
    """This server first while it is in the room; then the others there."""
    room_id = await serving.house.create(preset="public_chat", version="11", alias_localpart="tea")
    assert (await hydra.join(room_id)).status == 200
    query = [("room_alias", "#tea:localhost")]
    answer = await serving.get(hydra, "query", "directory", query=query)
    assert answer.json == {"room_id": room_id, "servers": [US, "hydra.test"]}
    await serving.house.rooms.leaving.leave(alice, room_id)
    answer = await serving.get(hydra, "query", "directory", query=query)
    assert answer.json == {"room_id": room_id, "servers": ["hydra.test"]}
    for alias, status in (("#coffee:localhost", 404), ("#tea:hydra.test", 404), ("tea", 400)):
        answer = await serving.get(hydra, "query", "directory", query=[("room_alias", alias)])
        assert answer.status == status, alias


async def test_other_queries_are_unknown(serving: Reading, hydra: Visitor) -> None:
    """And said to be."""
    answer = await serving.get(hydra, "query", "weather")
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


async def test_our_list_of_rooms(serving: Reading, hydra: Visitor) -> None:
    """Page by page, filtered on request; nothing but what is published."""
    admin: Actor = User(alice.user_id, is_admin=True)
    names = ("Tea", "Coffee", "Water")
    for name in (*names, "Secret"):
        room_id = await serving.house.create(preset="public_chat", version="11", name=name)
        if name != "Secret":
            await serving.house.rooms.directory.set_published(admin, room_id, True)
    found: list[str] = []
    since: str | None = None
    for _ in names:
        query = [("limit", "1"), *([("since", since)] if since else [])]
        page = (await serving.get(hydra, "publicRooms", query=query)).json
        found += [room["name"] for room in page["chunk"]]
        assert page["total_room_count_estimate"] == len(names)
        since = page.get("next_batch")
    assert (sorted(found), since) == (sorted(names), None)
    everything = (await serving.get(hydra, "publicRooms", query=[("limit", "0")])).json
    assert len(everything["chunk"]) == len(names)
    page = (await serving.post(hydra, "publicRooms", body={"filter": {"generic_search_term": "coff"}})).json
    assert [room["name"] for room in page["chunk"]] == ["Coffee"]
    page = (await serving.post(hydra, "publicRooms", body={"filter": {"room_types": ["m.space"]}})).json
    assert page["chunk"] == []
    page = (await serving.post(hydra, "publicRooms", body={"third_party_instance_id": "irc"})).json
    assert page["chunk"] == []
    for body in (
        {"third_party_instance_id": "irc", "include_all_networks": True},
        {"limit": 10, "since": "junk"},
    ):
        answer = await serving.post(hydra, "publicRooms", body=body)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM"), body
