# SPDX-License-Identifier: Apache-2.0
"""The endpoints of rooms over HTTP: what they are given, answer and refuse with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from storage.database import Database
from tests.clientapi.room_site import RoomSite
from tests.reactor import accept_leftovers, run
from tests.rooms.services_fixture import House


@pytest.fixture
def rooms(database: Database) -> Iterator[RoomSite]:
    """Endpoints of a server that has no rooms yet."""

    async def start() -> RoomSite:
        return RoomSite(await House.open(database), database)

    site = run(start())
    accept_leftovers()
    yield site
    run(site.stop())


async def make(site: RoomSite, **body: Any) -> str:
    """A room of Alice's, open to all unless told otherwise."""
    room_id: str = (await site.ok("alice", "POST", "/createRoom", {"preset": "public_chat", **body}))[
        "room_id"
    ]
    return room_id


async def test_a_room_from_its_beginning_to_its_end(rooms: RoomSite) -> None:
    """Create, join, send, redact, set state, invite, kick, ban, unban, leave, forget."""
    ok = rooms.ok
    room_id = await make(rooms, room_alias_name="tea", name="Tea", visibility="public")
    path = f"/rooms/{room_id}"
    assert await ok("bob", "POST", "/join/#tea:localhost", via="x.org") == {"room_id": room_id}
    assert await ok("bob", "POST", f"{path}/join") == {"room_id": room_id}
    assert await ok("bob", "GET", "/joined_rooms") == {"joined_rooms": [room_id]}
    sent = await ok("bob", "PUT", f"{path}/send/m.room.message/1", {"body": "hello"})
    assert await ok("bob", "PUT", f"{path}/send/m.room.message/1", {"body": "hello"}) == sent
    redacted = await ok("bob", "PUT", f"{path}/redact/{sent['event_id']}/1", {"reason": "oops"})
    assert set(redacted) == {"event_id"} != set()
    for key in ("", "/", "/key"):
        assert set(await ok("alice", "PUT", f"{path}/state/m.x{key}", {"x": 1})) == {"event_id"}
    assert (await rooms.house.head(room_id)).state_event("m.x", "key") is not None
    assert await ok("alice", "POST", f"{path}/invite", {"user_id": "@carol:localhost", "reason": "r"}) == {}
    assert await ok("alice", "POST", f"{path}/kick", {"user_id": "@carol:localhost"}) == {}
    assert await ok("alice", "POST", f"{path}/ban", {"user_id": "@carol:localhost"}) == {}
    assert await ok("alice", "POST", f"{path}/unban", {"user_id": "@carol:localhost"}) == {}
    assert await ok("bob", "POST", f"{path}/leave") == {}
    assert await ok("bob", "POST", f"{path}/forget") == {}
    assert await ok("bob", "GET", "/joined_rooms") == {"joined_rooms": []}
    replaced = await ok("alice", "POST", f"{path}/upgrade", {"new_version": "11"})
    assert (await ok(None, "GET", "/directory/room/#tea:localhost")) == {
        "room_id": replaced["replacement_room"],
        "servers": ["localhost"],
    }


async def test_directories(rooms: RoomSite) -> None:
    """Aliases, publication, the list, summaries under all three names, hierarchies."""
    ok = rooms.ok
    room_id = await make(rooms, name="Tea")
    assert await ok("alice", "PUT", "/directory/room/#t:localhost", {"room_id": room_id}) == {}
    taken = await rooms.call("alice", "PUT", "/directory/room/#t:localhost", {"room_id": room_id})
    assert (taken.status, taken.errcode) == (409, "M_UNKNOWN")
    assert await ok("alice", "GET", f"/rooms/{room_id}/aliases") == {"aliases": ["#t:localhost"]}
    assert await ok("alice", "DELETE", "/directory/room/#t:localhost") == {}
    gone = await rooms.call(None, "GET", "/directory/room/#t:localhost")
    assert (gone.status, gone.errcode) == (404, "M_NOT_FOUND")

    listing = f"/directory/list/room/{room_id}"
    assert await ok(None, "GET", listing) == {"visibility": "private"}
    assert await ok("alice", "PUT", listing, {"visibility": "public"}) == {}
    assert await ok(None, "GET", listing) == {"visibility": "public"}
    for answer in (
        await ok(None, "GET", "/publicRooms", limit="5"),
        await ok("guest", "POST", "/publicRooms", {"filter": {"generic_search_term": "tea"}, "limit": 5}),
    ):
        assert [chunk["room_id"] for chunk in answer["chunk"]] == [room_id]
    assert (await ok("bob", "POST", "/publicRooms", {"third_party_instance_id": "irc"}))["chunk"] == []
    elsewhere = await rooms.call("bob", "GET", "/publicRooms", query={"server": "elsewhere.org"})
    assert (elsewhere.status, elsewhere.errcode) == (404, "M_NOT_FOUND")

    unstable = "/_matrix/client/unstable/im.nheko.summary"
    for path in (
        f"/_matrix/client/v1/room_summary/{room_id}",
        f"{unstable}/summary/{room_id}",
        f"{unstable}/rooms/{room_id}/summary",
    ):
        assert (await ok(None, "GET", path))["name"] == "Tea"
        assert (await ok("bob", "GET", path, via="x.org"))["membership"] == "leave"
    for path in (
        f"/_matrix/client/v1/rooms/{room_id}/hierarchy",
        f"/_matrix/client/unstable/org.matrix.msc2946/rooms/{room_id}/hierarchy",
    ):
        assert [room["room_id"] for room in (await ok("bob", "GET", path))["rooms"]] == [room_id]


async def test_reports_are_kept(rooms: RoomSite) -> None:
    """Of a room, a user, and an event, with and without a body."""
    room_id = await make(rooms)
    sent = await rooms.ok("alice", "PUT", f"/rooms/{room_id}/send/m.x/1", {})
    for path in (f"/rooms/{room_id}/report", "/users/@bob:localhost/report"):
        assert await rooms.ok("alice", "POST", path, {"reason": "r"}) == {}
    assert await rooms.ok("alice", "POST", f"/rooms/{room_id}/report/{sent['event_id']}") == {}
    assert len(await rooms.reports.newest(10)) == 3


async def test_knocking_and_guests(rooms: RoomSite) -> None:
    """Guests join where they may, and call nothing that is not for them."""
    room_id = await make(
        rooms, initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    )
    assert await rooms.ok("bob", "POST", f"/knock/{room_id}", {"reason": "tea"}) == {"room_id": room_id}
    open_id = await make(
        rooms, initial_state=[{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}]
    )
    assert await rooms.ok("guest", "POST", f"/join/{open_id}") == {"room_id": open_id}
    await rooms.ok("guest", "PUT", f"/rooms/{open_id}/send/m.x/1", {})
    for path in (f"/knock/{room_id}", "/createRoom", f"/rooms/{open_id}/invite"):
        refused = await rooms.call("guest", "POST", path, {})
        assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")


REFUSED: list[tuple[str | None, str, str, object, int, str]] = [
    (None, "POST", "/createRoom", {}, 401, "M_MISSING_TOKEN"),
    ("alice", "POST", "/createRoom", b"{", 400, "M_NOT_JSON"),
    ("alice", "POST", "/createRoom", [], 400, "M_BAD_JSON"),
    ("alice", "POST", "/createRoom", {"preset": "cosy"}, 400, "M_BAD_JSON"),
    ("alice", "POST", "/createRoom", {"invite": "@bob:localhost"}, 400, "M_BAD_JSON"),
    ("alice", "POST", "/createRoom", {"initial_state": [{"type": "m.x"}]}, 400, "M_BAD_JSON"),
    ("alice", "POST", "/createRoom", {"creation_content": {"x": 1.5}}, 400, "M_BAD_JSON"),
    ("alice", "POST", "/createRoom", {"topic": "x" * 70_000}, 413, "M_TOO_LARGE"),
    ("alice", "POST", "/createRoom", {"room_version": "99"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
    ("alice", "POST", "/createRoom", {"invite_3pid": [{"medium": "email"}]}, 400, "M_SERVER_NOT_TRUSTED"),
    (
        "alice",
        "POST",
        "/createRoom",
        {"power_level_content_override": {"ban": "x"}},
        400,
        "M_INVALID_ROOM_STATE",
    ),
    ("suspended", "POST", "/createRoom", {}, 403, "M_USER_SUSPENDED"),
    ("bob", "POST", "/join/nonsense", {}, 400, "M_INVALID_PARAM"),
    ("bob", "POST", "/join/!unknown:localhost", {}, 404, "M_NOT_FOUND"),
    ("bob", "POST", "/join/#unknown:localhost", {}, 404, "M_NOT_FOUND"),
    ("bob", "POST", "/join/ROOM", {"third_party_signed": {}}, 400, "M_SERVER_NOT_TRUSTED"),
    ("bob", "POST", "/join/ROOM", {"reason": 1}, 400, "M_BAD_JSON"),
    ("suspended", "POST", "/join/ROOM", {}, 403, "M_USER_SUSPENDED"),
    ("bob", "POST", "/rooms/ROOM/leave", {}, 403, "M_FORBIDDEN"),
    ("alice", "POST", "/rooms/ROOM/forget", {}, 400, "M_UNKNOWN"),
    ("alice", "POST", "/rooms/ROOM/invite", {}, 400, "M_MISSING_PARAM"),
    ("alice", "POST", "/rooms/ROOM/invite", {"user_id": "bob"}, 400, "M_INVALID_PARAM"),
    ("alice", "POST", "/rooms/ROOM/invite", {"user_id": "@x:elsewhere.org"}, 400, "M_UNKNOWN"),
    (
        "alice",
        "POST",
        "/rooms/ROOM/invite",
        {"medium": "email", "address": "a@b.c"},
        400,
        "M_SERVER_NOT_TRUSTED",
    ),
    ("alice", "POST", "/rooms/ROOM/unban", {"user_id": "@bob:localhost"}, 403, "M_BAD_STATE"),
    ("alice", "PUT", "/rooms/ROOM/send/m.x/1", {"n": 0.5}, 400, "M_BAD_JSON"),
    ("alice", "PUT", "/rooms/ROOM/send/m.x/1", {"n": "x" * 70_000}, 413, "M_TOO_LARGE"),
    ("alice", "PUT", "/rooms/ROOM/send/m.x/1", b"\xff", 400, "M_NOT_JSON"),
    ("bob", "PUT", "/rooms/ROOM/send/m.x/1", {}, 403, "M_FORBIDDEN"),
    ("alice", "PUT", "/rooms/ROOM/redact/$x/1", {}, 404, "M_NOT_FOUND"),
    ("alice", "PUT", "/rooms/ROOM/redact/$x/1", {"reason": 1}, 400, "M_BAD_JSON"),
    ("alice", "PUT", "/rooms/ROOM/state/m.room.create", {}, 403, "M_FORBIDDEN"),
    ("alice", "PUT", "/rooms/ROOM/state/m.x/@bob:localhost", {}, 403, "M_FORBIDDEN"),
    ("alice", "PUT", "/rooms/ROOM/state/m.room.power_levels", {"ban": "x"}, 400, "M_BAD_JSON"),
    (
        "alice",
        "PUT",
        "/rooms/ROOM/state/m.room.canonical_alias",
        {"alias": "#x:localhost"},
        400,
        "M_BAD_ALIAS",
    ),
    ("alice", "PUT", "/rooms/ROOM/state/m.room.member/@bob:localhost", {}, 400, "M_BAD_JSON"),
    ("alice", "POST", "/rooms/ROOM/upgrade", {}, 400, "M_BAD_JSON"),
    ("alice", "POST", "/rooms/ROOM/upgrade", {"new_version": "99"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
    ("bob", "POST", "/rooms/ROOM/upgrade", {"new_version": "12"}, 403, "M_FORBIDDEN"),
    (None, "GET", "/directory/room/nonsense", None, 400, "M_INVALID_PARAM"),
    ("bob", "PUT", "/directory/room/#x:localhost", {"room_id": "ROOM"}, 404, "M_NOT_FOUND"),
    ("bob", "PUT", "/directory/list/room/ROOM", {"visibility": "secret"}, 400, "M_BAD_JSON"),
    ("bob", "PUT", "/directory/list/room/ROOM", {}, 403, "M_FORBIDDEN"),
    (None, "GET", "/directory/list/room/!unknown:localhost", None, 404, "M_NOT_FOUND"),
    ("bob", "GET", "/rooms/ROOM/aliases", None, 403, "M_FORBIDDEN"),
    (None, "POST", "/publicRooms", {}, 401, "M_MISSING_TOKEN"),
    ("bob", "POST", "/publicRooms", {"since": "junk"}, 400, "M_INVALID_PARAM"),
    ("bob", "GET", "/_matrix/client/v1/rooms/!unknown:localhost/hierarchy", None, 403, "M_FORBIDDEN"),
    (None, "GET", "/_matrix/client/v1/room_summary/!unknown:localhost", None, 404, "M_NOT_FOUND"),
    ("bob", "POST", "/rooms/ROOM/report/$x", {}, 404, "M_NOT_FOUND"),
]


async def test_refusals(rooms: RoomSite) -> None:
    """Each with the status and code of the specification, and nothing changed."""
    room_id = await make(rooms)
    before = (await rooms.house.head(room_id)).head
    for token, method, path, body, status, errcode in REFUSED:
        answer = await rooms.call(token, method, path.replace("ROOM", room_id), body)
        assert (answer.status, answer.errcode) == (status, errcode), (method, path, body, answer.raw)
    assert (await rooms.house.head(room_id)).head == before


async def test_bridges_can_tell_refusals_apart(rooms: RoomSite) -> None:
    """MSC3848's codes in the error object, and the words older ones look for."""
    room_id = await make(rooms)
    for token, path, code, words in (
        ("alice", "invite", "ALREADY_JOINED", "is already in the room"),
        ("bob", "invite", "NOT_JOINED", "not in room"),
        ("bob", "kick", "NOT_JOINED", "not in room"),
    ):
        body = {"user_id": "@alice:localhost"}
        answer = await rooms.call(token, "POST", f"/rooms/{room_id}/{path}", body)
        assert answer.status == 403
        assert answer.json["org.matrix.msc3848.unstable.errcode"] == f"ORG.MATRIX.MSC3848.{code}"
        assert words in answer.json["error"]
