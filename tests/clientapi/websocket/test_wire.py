# SPDX-License-Identifier: Apache-2.0
"""WebSocket over loopback, with a client of autobahn's: the door, every method, slow readers, and endings."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred

from homeserver.clientapi.websocket import wire
from homeserver.clientapi.websocket.frames import LONGEST_FRAME
from homeserver.clientapi.websocket.session import Session
from homeserver.receipts.service import Marks
from homeserver.web.rate_limits import DEFAULTS
from storage.database import Database
from tests.clientapi.sync_site import PATH, Socket, SyncSite
from tests.clientapi.test_sync_endpoints import listening
from tests.reactor import accept_leftovers, reactor, run
from tests.rooms.services_fixture import alice, bob

ALICE = "@alice:localhost"
MESSAGE = {"event_type": "m.room.message", "content": {"body": "hello"}}


@pytest.fixture
def site(database: Database) -> Iterator[SyncSite]:
    started = run(SyncSite.open(database))
    accept_leftovers()
    yield started
    run(started.stop())


def bodies(update: dict[str, Any], room_id: str) -> list[str]:
    events = update["rooms"]["join"].get(room_id, {"timeline": {"events": []}})["timeline"]["events"]
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


@pytest.mark.parametrize(
    "path",
    [PATH, "/_matrix/client/unstable/stream", "/_matrix/client/r0/stream", "/_matrix/client/v3/stream"],
)
async def test_every_path_leads_to_a_first_update(site: SyncSite, path: str) -> None:
    room_id = await site.house.create()
    socket = await site.socket(path=path)
    assert list((await socket.update(0))["rooms"]["join"]) == [room_id]


@pytest.mark.parametrize(
    ("offered", "chosen"), [(None, None), (["m.json"], "m.json"), (["wamp.2.json", "m.json"], "m.json")]
)
async def test_the_subprotocol_is_echoed_if_it_was_offered(
    site: SyncSite, offered: list[str] | None, chosen: str | None
) -> None:
    assert (await site.socket(protocols=offered)).subprotocol == chosen


async def test_who_may_not_enter_is_told_over_http(site: SyncSite) -> None:
    """The Matrix error as JSON, before any upgrade."""
    for token, errcode in ((None, "M_MISSING_TOKEN"), ("eve", "M_UNKNOWN_TOKEN")):
        refused = await site.get(PATH, token)
        assert (refused.status, refused.errcode) == (401, errcode)
    assert (await site.get(PATH, since="nonsense")).errcode == "M_INVALID_PARAM"
    assert (await site.get(PATH)).status == 426
    with pytest.raises(ConnectionError):
        await site.socket(protocols=["wamp.2.json"])


async def test_query_parameters_mean_what_they_mean_for_sync(site: SyncSite) -> None:
    room_id = await site.house.create()
    first = await (await site.socket(filter="f1", presence="offline")).update(0)
    assert len(first["rooms"]["join"][room_id]["timeline"]["events"]) == 1
    again = await (await site.socket(since=first["next_batch"], set_presence="unavailable")).update(0)
    assert again["rooms"]["join"] == {}
    full = await (await site.socket(since=first["next_batch"], full_state="true")).update(0)
    assert len(full["rooms"]["join"][room_id]["state"]["events"]) > 5
    sightings = [state for _, _, state in site.process.fakes.presence.sightings]
    assert [sightings[0], *sightings[2:3]] == ["offline", "unavailable"]


async def test_two_people_talk(site: SyncSite) -> None:
    """What one sends, the other is sent; a repeated id sends nothing twice."""
    room_id = await site.house.public(bob)
    one, other = await site.socket("alice"), await site.socket("bob")
    await other.update(0)
    sent = await one.call("t1", "send", room_id=room_id, **MESSAGE)
    assert await one.call("t1", "send", room_id=room_id, **MESSAGE) == sent
    update = await other.update(1)
    assert bodies(update, room_id) == ["hello"]
    assert update["rooms"]["join"][room_id]["timeline"]["events"][0]["event_id"] == sent["result"]["event_id"]
    topic = {"event_type": "m.room.topic", "content": {"topic": "t"}}
    assert "event_id" in (await one.call("s1", "state", room_id=room_id, **topic))["result"]
    kicked = {
        "event_type": "m.room.member",
        "content": {"membership": "leave"},
        "state_key": "@bob:localhost",
    }
    assert "event_id" in (await one.call("s2", "state", room_id=room_id, **kicked))["result"]
    await other.until(lambda: any(room_id in update["rooms"]["leave"] for update in other.updates))


async def test_the_other_methods_reach_their_services(site: SyncSite) -> None:
    room_id = await site.house.create()
    socket = await site.socket()
    for method, params in (
        ("ping", {}),
        ("typing", {"room_id": room_id, "typing": True}),
        ("typing", {"room_id": room_id, "typing": False, "timeout": 5}),
        ("read_markers", {"room_id": room_id, "m.read": "$a", "m.fully_read": "$b", "m.read.private": "$c"}),
        ("presence", {"presence": "offline"}),
        ("presence", {"presence": "online", "status_msg": "here"}),
        ("ack", {"since": "s1_2"}),
    ):
        assert (await socket.call("1", method, **params))["result"] == {}
    assert [what for what in site.beside.done if what[0] != "active"] == [
        ("typing", ALICE, True, 30_000),
        ("typing", ALICE, False, 5),
        ("marks", ALICE, Marks(read="$a", private="$c", fully_read="$b")),
        ("presence", ALICE, "offline", None, True),
        ("presence", ALICE, "online", "here", False),
    ]


@pytest.mark.parametrize(
    ("method", "params", "errcode"),
    [
        ("fly", {}, "M_BAD_JSON"),
        ("send", {"event_type": "m.room.message", "content": {}}, "M_BAD_JSON"),
        ("send", {"room_id": "!nowhere:localhost", **MESSAGE}, "M_FORBIDDEN"),
        ("send", {"room_id": "!a\0", **MESSAGE}, "M_INVALID_PARAM"),
        ("send", {"room_id": "!a", "event_type": "m", "content": "text"}, "M_BAD_JSON"),
        ("state", {"room_id": "!nowhere:localhost", **MESSAGE, "state_key": 1}, "M_BAD_JSON"),
        ("typing", {"room_id": "!nowhere:localhost", "typing": "yes"}, "M_BAD_JSON"),
        ("typing", {"room_id": "!nowhere:localhost", "typing": True}, "M_FORBIDDEN"),
        ("read_markers", {"room_id": "!a"}, "M_BAD_JSON"),
        ("presence", {}, "M_BAD_JSON"),
        ("ack", {"since": "t1_2"}, "M_INVALID_PARAM"),
    ],
)
async def test_mistakes_are_answered_and_the_connection_lives(
    site: SyncSite, method: str, params: dict[str, Any], errcode: str
) -> None:
    socket = await site.socket()
    assert (await socket.call("1", method, **params))["error"]["errcode"] == errcode
    socket.write(b"\x00", binary=True)
    socket.write(b"{")
    assert (await socket.answer(None))["error"]["errcode"] == "M_NOT_JSON"
    assert (await socket.call("2", "ping"))["result"] == {}


async def test_guests_do_over_websocket_what_they_may_over_http(site: SyncSite) -> None:
    socket = await site.socket("guest")
    refused = await socket.call("1", "presence", presence="online")
    assert refused["error"]["errcode"] == "M_GUEST_ACCESS_FORBIDDEN"
    assert (await socket.call("2", "ping"))["result"] == {}


async def test_a_frame_that_is_too_long_ends_the_connection(site: SyncSite) -> None:
    socket = await site.socket()
    longest = {"id": "1", "method": "ping", "params": {"x": ""}}
    padding = LONGEST_FRAME - len(orjson.dumps(longest))
    socket.write(orjson.dumps({**longest, "params": {"x": "x" * padding}}))
    assert (await socket.answer("1"))["result"] == {}
    socket.write(orjson.dumps({**longest, "params": {"x": "x" * (padding + 1)}}))
    with pytest.raises(EOFError):
        await socket.until(lambda: False)
    assert socket.closed is not None and socket.closed[0] == 1009


async def test_a_slow_reader_gets_what_happened_meanwhile_in_one_update(site: SyncSite) -> None:
    """Updates are not made, much less kept, while the last one is not read."""
    room_id = await site.house.public()
    socket = await site.socket(filter=orjson.dumps({"room": {"timeline": {"limit": 100}}}).decode())
    await socket.update(0)
    # The system's buffers would else grow until they hold it all: this one no more, the server's to four megabytes.
    socket.transport.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 1 << 18)
    socket.transport.pauseProducing()
    sent = []
    for number in range(120):
        body = f"{number}:" + "x" * 50_000
        sent.append(body)
        await site.house.rooms.sending.send(alice, room_id, "m.room.message", {"body": body})
        await pause()
    socket.transport.resumeProducing()
    seen: list[str] = []

    def take() -> bool:
        seen[:] = [body for update in socket.updates for body in bodies(update, room_id)]
        return len(seen) >= len(sent)

    await socket.until(take)
    assert seen == sent
    assert len(socket.updates) < len(sent)


async def test_a_revoked_token_ends_the_connection(site: SyncSite) -> None:
    socket = await site.socket()
    await socket.update(0)
    site.sessions.revoke("alice")
    with pytest.raises(EOFError):
        await socket.until(lambda: False)
    assert socket.frames[-1]["error"]["errcode"] == "M_UNKNOWN_TOKEN"
    assert socket.closed is not None and socket.closed[0] == 4001
    await listening(site, nobody=True)
    assert site.sessions.watchers[ALICE] == []


async def test_a_lost_connection_stops_listening(site: SyncSite) -> None:
    socket = await site.socket()
    await socket.update(0)
    await listening(site)
    socket.drop()
    await listening(site, nobody=True)


@pytest.mark.parametrize("politely", [True, False])
async def test_a_connection_that_ended_takes_no_memory(site: SyncSite, politely: bool) -> None:
    """Not even until the garbage collector comes by, which it does every few minutes."""

    def left() -> int:
        return sum(isinstance(each, (wire.Wire, Session)) for each in gc.get_objects())

    gc.collect()
    before = left()
    gc.disable()
    try:
        socket = await site.socket()
        await socket.update(0)
        await listening(site)
        assert left() == before + 2
        if politely:
            socket.sendClose(1000)
        else:
            socket.drop()
        await listening(site, nobody=True)
        del socket
        while left() > before:  # until the connection is closed on both sides
            await pause()
    finally:
        gc.enable()


async def test_a_stopping_server_says_goodbye(database: Database) -> None:
    site = await SyncSite.open(database)
    socket = await site.socket()
    await socket.update(0)
    stopped = Deferred.fromCoroutine(site._server.stop(5.0))
    with pytest.raises(EOFError):
        await socket.until(lambda: False)
    assert socket.closed is not None and socket.closed[0] == 1001
    await stopped


async def test_rate_limits_apply(database: Database) -> None:
    """The class of the HTTP counterpart, with the wait in the error."""
    site = await SyncSite.open(database, limited=True)
    try:
        socket = await site.socket()
        burst = int(DEFAULTS["messages"].burst)
        errors = [await failing(socket, str(number)) for number in range(burst + 10)]
        assert {error["errcode"] for error in errors[:burst]} == {"M_FORBIDDEN"}
        assert {error["errcode"] for error in errors[burst:]} == {"M_LIMIT_EXCEEDED"}
        assert all(error["retry_after_ms"] > 0 for error in errors[burst:])
        assert (await socket.call("ping", "ping"))["result"] == {}
    finally:
        await site.stop()


async def failing(socket: Socket, call_id: str) -> Any:
    return (await socket.call(call_id, "send", room_id="!nowhere:localhost", **MESSAGE))["error"]


async def pause() -> None:
    """A turn of the reactor."""
    turn: Deferred[None] = Deferred()
    reactor.callLater(0, turn.callback, None)
    await turn


async def test_pings_go_on_while_they_are_answered(site: SyncSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PING_EVERY", 0.001)
    socket = await site.socket()
    await socket.until(lambda: socket.pings >= 3)
    assert (await socket.call("1", "ping"))["result"] == {}


async def test_a_client_that_answers_no_ping_is_dropped(
    site: SyncSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PING_EVERY", 0.001)
    monkeypatch.setattr(wire, "PONG_WITHIN", 0.001)
    socket = await site.socket()
    socket.mute = True
    with pytest.raises(EOFError):
        await socket.until(lambda: False)
    await listening(site, nobody=True)
