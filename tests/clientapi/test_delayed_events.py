# SPDX-License-Identifier: Apache-2.0
"""Delayed events over HTTP: both dialects, and what they refuse. When they are sent: tests/rooms/delayed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from storage.database import Database
from tests.clientapi.room_site import RoomSite
from tests.reactor import accept_leftovers, run
from tests.rooms.services_fixture import House, bob

UNSTABLE = "/_matrix/client/unstable/org.matrix.msc4140"
EVENTS = f"{UNSTABLE}/delayed_events"
DELAY = "org.matrix.msc4140.delay"
CALL = "org.matrix.msc3401.call.member"
KEY = "_@bob:localhost_DEVICE_m.call"


@pytest.fixture
def rooms(database: Database) -> Iterator[RoomSite]:
    """Endpoints on which nothing is sent by itself."""

    async def start() -> RoomSite:
        for name in ("alice", "bob", "carol"):
            await database.execute(
                "user", "INSERT INTO users (user_id, created_ts) VALUES (%s, 1)", (f"@{name}:localhost",)
            )
        return RoomSite(await House.open(database), database)

    site = run(start())
    accept_leftovers()
    yield site
    run(site.stop())


async def delayed(site: RoomSite, path: str, body: object, delay: int = 600_000, token: str = "bob") -> str:
    """The delay id of an event put off by the query parameter."""
    answer = await site.call(token, "PUT", path, body, {DELAY: str(delay)})
    assert answer.status == 200, answer.raw
    assert set(answer.json) == {"delay_id"}
    delay_id: str = answer.json["delay_id"]
    return delay_id


async def refused(
    site: RoomSite, token: str | None, method: str, path: str, body: object = None, **query: str
) -> Any:
    """Status and error code of a request that must fail."""
    answer = await site.call(token, method, path, body, query)
    return answer.status, answer.json["errcode"]


async def test_the_two_ways_of_scheduling(rooms: RoomSite) -> None:
    """By a query parameter on `send` and `state`, and by an endpoint of its own; a transaction gives one event."""
    room_id = await rooms.house.public(bob)
    path = f"/rooms/{room_id}"
    message = await delayed(rooms, f"{path}/send/m.room.message/1", {"body": "later"})
    assert await delayed(rooms, f"{path}/send/m.room.message/1", {"body": "later"}) == message
    state = await delayed(rooms, f"{path}/state/{CALL}/{KEY}", {}, 700_000)
    again = await delayed(rooms, f"{path}/state/{CALL}/{KEY}", {}, 800_000)
    assert len({message, state, again}) == 3
    own = f"{UNSTABLE}{path}/delayed_event"
    body = {"delay": 5000, "content": {"body": "later"}}
    first = (await rooms.ok("bob", "PUT", f"{own}/m.room.message/1", body))["delay_id"]
    # One transaction is one event, by whichever way it came.
    assert first == message
    body = {"delay_ms": 5000, "state_key": KEY, "content": {}}
    second = (await rooms.ok("bob", "PUT", f"{own}/{CALL}/2", body))["delay_id"]
    assert (await rooms.ok("bob", "PUT", f"{own}/{CALL}/2", body))["delay_id"] == second
    told = await rooms.ok("bob", "GET", EVENTS)
    assert set(told) == {"delayed_events", "scheduled", "finalised"}
    assert [each["delay_id"] for each in told["delayed_events"]] == [second, message, state, again]
    assert told["scheduled"] == told["delayed_events"]
    soonest = told["scheduled"][0]
    assert soonest["room_id"] == room_id
    assert (soonest["type"], soonest["state_key"], soonest["content"]) == (CALL, KEY, {})
    assert soonest["delay"] == soonest["delay_ms"] == 5000
    assert (
        soonest["running_since"] == soonest["delayed_since_ts"] == soonest["scheduled_at"] > 1_700_000_000_000
    )
    assert "state_key" not in told["scheduled"][1]
    assert len(message) >= 40


async def test_managing_in_both_dialects(rooms: RoomSite) -> None:
    """The action in the path or in the body, by anybody who has the id; what is gone is not found."""
    room_id = await rooms.house.public(bob)
    made = [
        await delayed(rooms, f"/rooms/{room_id}/send/m.room.message/{n}", {"body": str(n)}) for n in range(4)
    ]
    assert await rooms.ok(None, "POST", f"{EVENTS}/{made[0]}", {"action": "restart"}) == {}
    assert await rooms.ok(None, "POST", f"{EVENTS}/{made[0]}/restart") == {}
    for n, (suffix, body) in enumerate((("", {"action": "cancel"}), ("/cancel", None))):
        for _ in range(2):  # a repetition is no error
            assert await rooms.ok(None, "POST", f"{EVENTS}/{made[n]}{suffix}", body) == {}
        gone = (404, "M_NOT_FOUND")
        assert await refused(rooms, None, "POST", f"{EVENTS}/{made[n]}/restart", {}) == gone
        assert await refused(rooms, None, "POST", f"{EVENTS}/{made[n]}", {"action": "send"}) == gone
    for n, (suffix, body) in enumerate((("", {"action": "send"}), ("/send", None)), 2):
        for _ in range(2):
            assert await rooms.ok(None, "POST", f"{EVENTS}/{made[n]}{suffix}", body) == {}
        assert await refused(rooms, None, "POST", f"{EVENTS}/{made[n]}/cancel", {}) == gone
        assert await refused(rooms, None, "POST", f"{EVENTS}/{made[n]}", {"action": "restart"}) == gone
    head = await rooms.house.head(room_id)
    told = await rooms.ok("bob", "GET", EVENTS, status="finalised")
    assert [each["outcome"] for each in told["finalised"]] == ["send", "send", "cancel", "cancel"]
    assert {each["reason"] for each in told["finalised"]} == {"action"}
    assert told["finalised"][0]["event_id"] == head.extremities[0][0]
    assert told["finalised"][0]["delayed_event"]["content"] == {"body": "3"}
    one = await rooms.ok("bob", "GET", f"{EVENTS}/{made[3]}")
    assert one["event_id"] == one["finalised"]["event_id"] == head.extremities[0][0]
    assert one["finalised_ts"] == one["finalised"]["finalised_ts"]
    assert "event_id" not in await rooms.ok("bob", "GET", f"{EVENTS}/{made[0]}")
    assert (await rooms.ok("bob", "GET", EVENTS, status="scheduled")) == {
        "delayed_events": [],
        "scheduled": [],
    }
    only = await rooms.ok("bob", "GET", EVENTS, status="finalised", delay_id=made[1])
    assert [each["delay_id"] for each in only["finalised"]] == [made[1]]


async def test_what_is_refused(rooms: RoomSite) -> None:
    """Wrong delays and actions, other people's rooms and events."""
    room_id = await rooms.house.public(bob)
    path = f"/rooms/{room_id}/send/m.room.message/1"
    answer = await rooms.call("bob", "PUT", path, {}, {DELAY: "86400001"})
    assert answer.status == 400
    assert answer.json["errcode"] == "M_UNKNOWN"
    assert answer.json["org.matrix.msc4140.errcode"] == "M_MAX_DELAY_EXCEEDED"
    assert answer.json["org.matrix.msc4140.max_delay"] == 86_400_000
    for wrong in ("0", "-5", "soon", "1.5"):
        assert await refused(rooms, "bob", "PUT", path, {}, **{DELAY: wrong}) == (400, "M_INVALID_PARAM")
    parent = {DELAY: "500", "org.matrix.msc4140.parent_delay_id": "x"}
    assert await refused(rooms, "bob", "PUT", path, {}, **parent) == (400, "M_INVALID_PARAM")
    own = f"{UNSTABLE}/rooms/{room_id}/delayed_event/m.x/1"
    for body, code in (
        ({"content": {}}, "M_MISSING_PARAM"),
        ({"delay": 5}, "M_MISSING_PARAM"),
        ({"delay": "5", "content": {}}, "M_BAD_JSON"),
        ({"delay": True, "content": {}}, "M_BAD_JSON"),
        ({"delay": 5, "content": []}, "M_BAD_JSON"),
        ({"delay": 5, "content": {}, "state_key": 1}, "M_BAD_JSON"),
        ({"delay": 5, "content": {"x": 1.5}}, "M_BAD_JSON"),
    ):
        assert await refused(rooms, "bob", "PUT", own, body) == (400, code)
    assert await refused(rooms, "carol", "PUT", path, {}, **{DELAY: "500"}) == (403, "M_FORBIDDEN")
    assert await refused(rooms, "suspended", "PUT", path, {}, **{DELAY: "500"}) == (403, "M_USER_SUSPENDED")
    assert await refused(rooms, None, "PUT", path, {}, **{DELAY: "500"}) == (401, "M_MISSING_TOKEN")
    big = {"body": "x" * 70_000}
    assert await refused(rooms, "bob", "PUT", path, big, **{DELAY: "500"}) == (413, "M_TOO_LARGE")
    mine = await delayed(rooms, path, {"body": "later"})
    assert await refused(rooms, "alice", "GET", f"{EVENTS}/{mine}") == (404, "M_NOT_FOUND")
    assert (await rooms.ok("alice", "GET", EVENTS))["delayed_events"] == []
    assert await refused(rooms, None, "GET", EVENTS) == (401, "M_MISSING_TOKEN")
    assert await refused(rooms, None, "POST", f"{EVENTS}/{mine}", {}) == (400, "M_MISSING_PARAM")
    assert await refused(rooms, None, "POST", f"{EVENTS}/{mine}", {"action": []}) == (400, "M_INVALID_PARAM")
    assert await refused(rooms, None, "POST", f"{EVENTS}/{mine}/x", {}) == (404, "M_UNRECOGNIZED")
    for unknown in ("nothing", "x" * 300):
        assert await refused(rooms, None, "POST", f"{EVENTS}/{unknown}/send") == (404, "M_NOT_FOUND")


async def test_a_user_has_a_hundred_at_most(rooms: RoomSite) -> None:
    """One more is refused until the next one is due; a repetition of one that stands is answered all the same."""
    room_id = await rooms.house.public(bob)
    path = f"/rooms/{room_id}/send/m.room.message"
    made = [await delayed(rooms, f"{path}/{n}", {}, 3_000_000 + n) for n in range(100)]
    answer = await rooms.call("bob", "PUT", f"{path}/100", {}, {DELAY: "500"})
    assert (answer.status, answer.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
    assert 0 < answer.json["retry_after_ms"] <= 3_000_000
    assert await delayed(rooms, f"{path}/7", {}) == made[7]
    await rooms.ok(None, "POST", f"{EVENTS}/{made[7]}/cancel")
    await delayed(rooms, f"{path}/100", {})


async def test_sending_now_what_may_not_be_sent(rooms: RoomSite) -> None:
    """The error is the one of sending it, and the event stays scheduled."""
    room_id = await rooms.house.public(bob)
    made = await delayed(rooms, f"/rooms/{room_id}/state/m.room.name", {"name": "Bob's"})
    assert await refused(rooms, None, "POST", f"{EVENTS}/{made}/send") == (403, "M_FORBIDDEN")
    assert await rooms.ok(None, "POST", f"{EVENTS}/{made}/restart") == {}
    levels = (await rooms.house.head(room_id)).state_event("m.room.power_levels", "")
    assert levels is not None
    raised = {
        **levels.event.content,
        "users": {**levels.event.content.get("users", {}), "@bob:localhost": 50},
    }
    await rooms.ok("alice", "PUT", f"/rooms/{room_id}/state/m.room.power_levels", raised)
    assert await rooms.ok(None, "POST", f"{EVENTS}/{made}/send") == {}
    name = (await rooms.house.head(room_id)).state_event("m.room.name", "")
    assert name is not None
    assert name.event.content == {"name": "Bob's"}


async def test_another_user_sets_the_state(rooms: RoomSite) -> None:
    """A delayed state event is cancelled by another user's change of that state, not by the sender's own."""
    room_id = await rooms.house.public(bob)
    path = f"/rooms/{room_id}"
    levels = (await rooms.house.head(room_id)).state_event("m.room.power_levels", "")
    assert levels is not None
    await rooms.ok(
        "alice", "PUT", f"{path}/state/m.room.power_levels", {**levels.event.content, "state_default": 0}
    )
    await rooms.ok("alice", "PUT", f"{path}/state/m.x/k", {"by": "alice, before"})
    kept = await delayed(rooms, f"{path}/state/m.x/k", {"by": "bob, later"})
    await rooms.ok("bob", "PUT", f"{path}/state/m.x/k", {"by": "bob"})
    await rooms.ok("alice", "PUT", f"{path}/state/m.x/other", {"by": "alice"})
    assert await rooms.ok(None, "POST", f"{EVENTS}/{kept}/restart") == {}
    await rooms.ok("alice", "PUT", f"{path}/state/m.x/k", {"by": "alice"})
    assert await refused(rooms, None, "POST", f"{EVENTS}/{kept}/restart") == (404, "M_NOT_FOUND")
    assert await refused(rooms, None, "POST", f"{EVENTS}/{kept}/send") == (404, "M_NOT_FOUND")
    one = await rooms.ok("bob", "GET", f"{EVENTS}/{kept}")
    assert one["error"]["errcode"] == "M_UNKNOWN"
    assert one["error"]["org.matrix.msc4140.errcode"] == "M_CANCELLED_BY_STATE_UPDATE"
    assert (await rooms.ok("bob", "GET", EVENTS))["finalised"][0]["reason"] == "error"


async def test_a_delay_id_is_managed_no_faster_than_devices_need(database: Database) -> None:
    """Twenty heartbeats at once, then one a second, for each event by itself."""
    for name in ("alice", "bob"):
        await database.execute(
            "user", "INSERT INTO users (user_id, created_ts) VALUES (%s, 1)", (f"@{name}:localhost",)
        )
    site = RoomSite(await House.open(database), database, limited=True)
    room_id = await site.house.public(bob)
    first, second = [
        await delayed(site, f"/rooms/{room_id}/send/m.room.message/{n}", {}, token="bob") for n in range(2)
    ]
    restarts = 0
    while (answer := await site.call(None, "POST", f"{EVENTS}/{first}/restart")).status == 200:
        restarts += 1
        assert restarts < 200
    assert restarts >= 20
    assert answer.json["errcode"] == "M_LIMIT_EXCEEDED"
    assert await site.ok(None, "POST", f"{EVENTS}/{second}/restart") == {}
    await site.stop()
