# SPDX-License-Identifier: Apache-2.0
"""Account data, tags, receipts, typing, presence, profiles and the user directory over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from storage.database import Database
from tests.clientapi.user_data_site import UserDataSite
from tests.reactor import accept_leftovers, run
from tests.rooms.engine_fixture import ALICE, BOB, CAROL

UNSTABLE = "/_matrix/client/unstable"


@pytest.fixture
def site(database: Database) -> Iterator[UserDataSite]:
    """Endpoints of a server with three accounts and no rooms."""
    site = run(UserDataSite.open(database))
    accept_leftovers()
    yield site
    run(site.stop())


async def refused(
    site: UserDataSite, token: str | None, method: str, path: str, body: Any = None, **query: str
) -> Any:
    """Status and error code of a request that must fail."""
    answer = await site.call(token, method, path, body, query)
    assert answer.status >= 400, (method, path, answer.raw)
    return answer.status, answer.json["errcode"]


async def test_account_data(site: UserDataSite) -> None:
    room = await site.engine.new_room()
    for place in (f"/user/{ALICE}", f"/user/{ALICE}/rooms/{room.room_id}"):
        path = f"{place}/account_data/org.example.a"
        assert await refused(site, "alice", "GET", path) == (404, "M_NOT_FOUND")
        assert await site.ok("alice", "PUT", path, {"a": 1}) == {}
        assert await site.ok("alice", "GET", path) == {"a": 1}
        assert await refused(site, "alice", "PUT", path, []) == (400, "M_BAD_JSON")
        assert await refused(site, "alice", "PUT", path, b"{") == (400, "M_NOT_JSON")
        for event_type in ("m.fully_read", "m.push_rules"):
            managed = f"{place}/account_data/{event_type}"
            assert await refused(site, "alice", "PUT", managed, {}) == (405, "M_BAD_JSON")
            deletion = f"{UNSTABLE}/org.matrix.msc3391{managed}"
            assert await refused(site, "alice", "DELETE", deletion) == (405, "M_BAD_JSON")
            assert await refused(site, "alice", "GET", managed) == (404, "M_NOT_FOUND")
        assert await site.ok("alice", "DELETE", f"{UNSTABLE}/org.matrix.msc3391{path}") == {}
        assert await refused(site, "alice", "GET", path) == (404, "M_NOT_FOUND")
    path = f"/user/{ALICE}/rooms/nonsense/account_data/org.example.a"
    for method in ("GET", "PUT"):
        assert await refused(site, "alice", method, path, {}) == (400, "M_INVALID_PARAM")


async def test_nobody_elses_data(site: UserDataSite) -> None:
    """Whoever's, whatever it is, and whether it exists or not: 403."""
    room = await site.engine.new_room()
    await site.engine.join(room.room_id, BOB)
    await site.ok("alice", "PUT", f"/user/{ALICE}/account_data/org.example.a", {"a": 1})
    for user in (ALICE, CAROL, "@nobody:localhost"):
        in_room = f"/user/{user}/rooms/{room.room_id}"
        for method, path in (
            ("GET", f"/user/{user}/account_data/org.example.a"),
            ("PUT", f"/user/{user}/account_data/org.example.a"),
            ("PUT", f"/user/{user}/account_data/m.push_rules"),
            ("DELETE", f"{UNSTABLE}/org.matrix.msc3391/user/{user}/account_data/org.example.a"),
            ("GET", f"{in_room}/account_data/org.example.a"),
            ("PUT", f"{in_room}/account_data/org.example.a"),
            ("GET", f"{in_room}/tags"),
            ("PUT", f"{in_room}/tags/u.a"),
            ("DELETE", f"{in_room}/tags/u.a"),
            ("PUT", f"/profile/{user}/displayname"),
            ("DELETE", f"/profile/{user}/displayname"),
        ):
            body = {"displayname": "x"} if method == "PUT" else None
            assert await refused(site, "bob", method, path, body) == (403, "M_FORBIDDEN"), path
    assert await site.ok("alice", "GET", f"/user/{ALICE}/account_data/org.example.a") == {"a": 1}


async def test_tags(site: UserDataSite) -> None:
    room = await site.engine.new_room()
    path = f"/user/{ALICE}/rooms/{room.room_id}/tags"
    assert await site.ok("alice", "GET", path) == {"tags": {}}
    assert await site.ok("alice", "PUT", f"{path}/m.favourite", {"order": 0.25, "more": 1}) == {}
    assert await site.ok("alice", "PUT", f"{path}/u.Work", {}) == {}
    tags = {"m.favourite": {"order": 0.25, "more": 1}, "u.Work": {}}
    assert await site.ok("alice", "GET", path) == {"tags": tags}
    assert await site.ok("alice", "GET", f"/user/{ALICE}/rooms/{room.room_id}/account_data/m.tag") == {
        "tags": tags
    }
    assert await site.ok("alice", "DELETE", f"{path}/u.Work") == {}
    assert set((await site.ok("alice", "GET", path))["tags"]) == {"m.favourite"}
    assert await refused(site, "alice", "PUT", f"{path}/u.x", {"order": 2}) == (400, "M_BAD_JSON")


async def test_receipts_and_markers(site: UserDataSite) -> None:
    room = await site.engine.new_room()
    await site.engine.join(room.room_id, BOB)
    event_id = await site.engine.send(room.room_id, ALICE, "hello")
    path = f"/rooms/{room.room_id}"
    for kind in ("m.read", "m.read.private", "m.fully_read"):
        assert await site.ok("bob", "POST", f"{path}/receipt/{kind}/{event_id}") == {}
    assert await site.ok("bob", "POST", f"{path}/receipt/m.read/{event_id}", {"thread_id": "main"}) == {}
    marker = f"/user/{BOB}/rooms/{room.room_id}/account_data/m.fully_read"
    assert await site.ok("bob", "GET", marker) == {"event_id": event_id}
    for body in ({"thread_id": ""}, {"thread_id": None}, {"thread_id": 1}, {"thread_id": "$x"}):
        answer = await refused(site, "bob", "POST", f"{path}/receipt/m.read/{event_id}", body)
        assert answer == (400, "M_INVALID_PARAM")
    assert await refused(site, "bob", "POST", f"{path}/receipt/m.seen/{event_id}", {}) == (
        400,
        "M_INVALID_PARAM",
    )
    assert await refused(site, "carol", "POST", f"{path}/receipt/m.read/{event_id}", {}) == (
        403,
        "M_FORBIDDEN",
    )
    assert await refused(site, "bob", "POST", f"{path}/receipt/m.read/$none", {}) == (404, "M_NOT_FOUND")
    later = await site.engine.send(room.room_id, ALICE, "again")
    marks = {"m.fully_read": later, "m.read": later, "m.read.private": later, "org.example.other": 1}
    assert await site.ok("bob", "POST", f"{path}/read_markers", marks) == {}
    assert await site.ok("bob", "GET", marker) == {"event_id": later}
    assert await site.ok("bob", "POST", f"{path}/read_markers", {}) == {}
    assert await refused(site, "bob", "POST", f"{path}/read_markers", {"m.read": 1}) == (400, "M_BAD_JSON")


async def test_typing(site: UserDataSite) -> None:
    room = await site.engine.new_room()
    path = f"/rooms/{room.room_id}/typing"
    assert await site.ok("alice", "PUT", f"{path}/{ALICE}", {"typing": True, "timeout": 5000}) == {}
    assert await site.ok("alice", "PUT", f"{path}/{ALICE}", {"typing": False}) == {}
    for body in ({}, {"typing": "yes"}, {"typing": True, "timeout": "1"}):
        assert await refused(site, "alice", "PUT", f"{path}/{ALICE}", body) == (400, "M_BAD_JSON")
    assert await refused(site, "alice", "PUT", f"{path}/{BOB}", {"typing": True}) == (403, "M_FORBIDDEN")
    assert await refused(site, "bob", "PUT", f"{path}/{BOB}", {"typing": True}) == (403, "M_FORBIDDEN")


async def test_presence(site: UserDataSite) -> None:
    room = await site.engine.new_room()
    path = f"/presence/{ALICE}/status"
    assert await site.ok("alice", "GET", path) == {"presence": "offline"}
    assert await refused(site, "bob", "GET", path) == (403, "M_FORBIDDEN")
    await site.engine.join(room.room_id, BOB)
    assert await site.ok("alice", "PUT", path, {"presence": "online", "status_msg": "tea"}) == {}
    online = {"presence": "online", "status_msg": "tea", "currently_active": True, "last_active_ago": 0}
    assert await site.ok("bob", "GET", path) == online
    assert await site.ok("alice", "PUT", path, {"presence": "online"}) == {}
    assert await site.ok("bob", "GET", path) == online
    assert await site.ok("alice", "PUT", path, {"presence": "unavailable", "status_msg": None}) == {}
    assert await site.ok("bob", "GET", path) == {"presence": "unavailable", "last_active_ago": 0}
    assert await refused(site, "bob", "PUT", path, {"presence": "offline"}) == (403, "M_FORBIDDEN")
    assert await refused(site, "alice", "PUT", path, {"presence": "busy"}) == (400, "M_INVALID_PARAM")
    assert await refused(site, "alice", "PUT", path, {}) == (400, "M_BAD_JSON")


async def test_profiles(site: UserDataSite) -> None:
    """Open to all to read; names reach the rooms; guests and the suspended are kept to what they may."""
    room = await site.engine.new_room()
    path = f"/profile/{ALICE}"
    assert await site.ok(None, "GET", path) == {}
    assert await refused(site, None, "GET", f"{path}/displayname") == (404, "M_NOT_FOUND")
    assert await site.ok("alice", "PUT", f"{path}/displayname", {"displayname": "Alice"}) == {}
    assert await site.ok("alice", "PUT", f"{path}/m.tz", {"m.tz": "Europe/Berlin"}) == {}
    unstable = f"{UNSTABLE}/uk.tcpip.msc4133{path}"
    assert await site.ok("alice", "PUT", f"{unstable}/org.example.a", {"org.example.a": [1]}) == {}
    whole = {"displayname": "Alice", "m.tz": "Europe/Berlin", "org.example.a": [1]}
    assert await site.ok(None, "GET", path) == await site.ok(None, "GET", unstable) == whole
    assert await site.ok(None, "GET", f"{path}/displayname") == {"displayname": "Alice"}
    member_events = await site.engine.gate.members(room, [ALICE])
    assert member_events[ALICE].event.content["displayname"] == "Alice"
    assert await site.ok("alice", "DELETE", f"{path}/displayname") == {}
    assert "displayname" not in (await site.engine.gate.members(room, [ALICE]))[ALICE].event.content
    for key, body, error in (
        ("displayname", {}, "M_MISSING_PARAM"),
        ("displayname", {"displayname": 1}, "M_INVALID_PARAM"),
        ("avatar_url", {"avatar_url": "http://x"}, "M_INVALID_PARAM"),
        ("Bad", {"Bad": 1}, "M_INVALID_PARAM"),
        ("x" * 256, {"x" * 256: 1}, "M_KEY_TOO_LARGE"),
        ("org.example.a", {"org.example.a": "x" * 70_000}, "M_PROFILE_TOO_LARGE"),
    ):
        assert await refused(site, "alice", "PUT", f"{path}/{key}", body) == (400, error)
    for user_id in ("@nobody:localhost", "@far:away.example"):
        assert await refused(site, None, "GET", f"/profile/{user_id}") == (404, "M_NOT_FOUND")
    assert await refused(site, None, "GET", "/profile/nonsense") == (400, "M_INVALID_PARAM")
    assert await refused(site, None, "PUT", f"{path}/displayname", {}) == (401, "M_MISSING_TOKEN")
    assert await refused(site, "suspended", "PUT", f"/profile/{BOB}/displayname", {}) == (
        403,
        "M_USER_SUSPENDED",
    )
    guest = "/profile/@guest:localhost"
    assert await site.ok("guest", "PUT", f"{guest}/displayname", {"displayname": "G"}) == {}
    assert await site.ok("guest", "DELETE", f"{guest}/displayname") == {}
    answer = await refused(site, "guest", "PUT", f"{guest}/avatar_url", {"avatar_url": "mxc://localhost/a"})
    assert answer == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_finding_people(site: UserDataSite) -> None:
    room = await site.engine.new_room()
    await site.engine.join(room.room_id, BOB)
    await site.ok("bob", "PUT", f"/profile/{BOB}/displayname", {"displayname": "Robert"})
    found = await site.ok("alice", "POST", "/user_directory/search", {"search_term": "rob"})
    assert found == {"results": [{"user_id": BOB, "display_name": "Robert"}], "limited": False}
    assert await site.ok("alice", "POST", "/user_directory/search", {"search_term": "carol", "limit": 1}) == {
        "results": [],
        "limited": False,
    }
    assert await refused(site, "alice", "POST", "/user_directory/search", {}) == (400, "M_BAD_JSON")
    for path in ("/_matrix/client/v1/mutual_rooms", f"{UNSTABLE}/uk.half-shot.msc2666/user/mutual_rooms"):
        assert await site.ok("alice", "GET", path, user_id=BOB) == {"joined": [room.room_id], "count": 1}
        assert await site.ok("alice", "GET", path, user_id=CAROL) == {"joined": [], "count": 0}
        assert await refused(site, "alice", "GET", path) == (400, "M_INVALID_PARAM")
        assert await refused(site, "alice", "GET", path, user_id=ALICE) == (400, "M_INVALID_PARAM")
        assert await refused(site, "guest", "GET", path, user_id=ALICE) == (403, "M_GUEST_ACCESS_FORBIDDEN")
