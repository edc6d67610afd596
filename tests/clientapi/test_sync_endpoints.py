# SPDX-License-Identifier: Apache-2.0
"""`GET /sync` over HTTP: its parameters, what they are refused for, and waiting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from storage.database import Database
from tests.clientapi.sync_site import SyncSite
from tests.reactor import accept_leftovers, reactor, run
from tests.rooms.services_fixture import alice

SYNC = "/_matrix/client/v3/sync"


@pytest.fixture
def site(database: Database) -> Iterator[SyncSite]:
    started = run(SyncSite.open(database))
    accept_leftovers()
    yield started
    run(started.stop())


@pytest.mark.parametrize("prefix", ["v3", "r0", "unstable"])
async def test_sync_answers_under_every_prefix(site: SyncSite, prefix: str) -> None:
    answer = await site.get(f"/_matrix/client/{prefix}/sync")
    assert answer.status == 200 and answer.json["rooms"]["join"] == {}
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({"since": "nonsense"}, "M_INVALID_PARAM"),
        ({"since": "t1_2"}, "M_INVALID_PARAM"),
        ({"timeout": "-1"}, "M_INVALID_PARAM"),
        ({"timeout": "soon"}, "M_INVALID_PARAM"),
        ({"full_state": "yes"}, "M_INVALID_PARAM"),
        ({"set_presence": "asleep"}, "M_INVALID_PARAM"),
        ({"filter": "unknown"}, "M_INVALID_PARAM"),
        ({"filter": "{"}, "M_NOT_JSON"),
        ({"filter": '{"room":[]}'}, "M_BAD_JSON"),
        ({"use_state_after": "1"}, "M_INVALID_PARAM"),
    ],
)
async def test_malformed_parameters_are_refused(site: SyncSite, query: dict[str, str], errcode: str) -> None:
    answer = await site.get(SYNC, **query)
    assert (answer.status, answer.errcode) == (400, errcode)


async def test_nobody_is_refused(site: SyncSite) -> None:
    missing, unknown = await site.get(SYNC, None), await site.get(SYNC, "eve")
    assert (missing.status, missing.errcode) == (401, "M_MISSING_TOKEN")
    assert (unknown.status, unknown.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert (await site.get(SYNC, "guest")).status == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "state"),
        ({"use_state_after": "true"}, "state_after"),
        ({"org.matrix.msc4222.use_state_after": "true"}, "org.matrix.msc4222.state_after"),
        ({"use_state_after": "false"}, "state"),
    ],
)
async def test_the_state_has_the_name_it_was_asked_for_by(
    site: SyncSite, query: dict[str, str], field: str
) -> None:
    room_id = await site.house.create()
    room = (await site.get(SYNC, **query)).json["rooms"]["join"][room_id]
    assert [name for name in room if "state" in name] == [field]


@pytest.mark.parametrize("wanted", ["f1", orjson.dumps({"room": {"timeline": {"limit": 1}}}).decode()])
async def test_filters_are_named_or_given(site: SyncSite, wanted: str) -> None:
    room_id = await site.house.create()
    for _ in range(2):
        room = (await site.get(SYNC, filter=wanted)).json["rooms"]["join"][room_id]
        assert len(room["timeline"]["events"]) == 1


async def test_a_long_poll_answers_when_there_is_news(site: SyncSite) -> None:
    room_id = await site.house.create()
    since = (await site.get(SYNC, since="")).json["next_batch"]
    waiting = Deferred.fromCoroutine(site.get(SYNC, since=since, timeout="30000", set_presence="unavailable"))
    await listening(site)
    event_id = await site.house.rooms.sending.send(alice, room_id, "m.room.message", {"body": "news"})
    answer: Any = (await waiting).json
    assert [e["event_id"] for e in answer["rooms"]["join"][room_id]["timeline"]["events"]] == [event_id]
    sightings = site.process.fakes.presence.sightings
    assert sightings == [("@alice:localhost", "DEVICE", state) for state in ("online", "unavailable")]


async def test_an_aborted_long_poll_stops_listening(site: SyncSite) -> None:
    since = (await site.get(SYNC)).json["next_batch"]
    connection = await site.connection()
    connection.send(
        f"GET {SYNC}?since={since}&timeout=30000&access_token=alice HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    await listening(site)
    connection.drop()
    await listening(site, nobody=True)


async def test_a_long_poll_ends_with_its_session(site: SyncSite) -> None:
    """At once, and with the refusal its token meets by now; doubts that prove unfounded end it with what there is."""
    since = (await site.get(SYNC)).json["next_batch"]
    for revoked, status in ((set[str](), 200), ({"alice"}, 401)):
        waiting = Deferred.fromCoroutine(site.get(SYNC, since=since, timeout="30000"))
        await listening(site)
        site.sessions.revoked |= revoked
        for callback in tuple(site.sessions.watchers["@alice:localhost"]):
            callback()
        assert (await waiting).status == status
    assert site.sessions.watchers["@alice:localhost"] == []


@pytest.mark.parametrize("timeout", ["0", "30000"])
async def test_a_session_that_ends_before_it_is_watched_is_told_nothing(site: SyncSite, timeout: str) -> None:
    """Its token was looked at, and then its filter read: it ended in between."""
    since = (await site.get(SYNC)).json["next_batch"]
    site.uploaded.held = Deferred()
    asking = Deferred.fromCoroutine(site.get(SYNC, since=since, timeout=timeout, filter="f1"))
    while not site.uploaded.asked:
        await deferLater(reactor, 0)
    site.sessions.revoke("alice")
    site.uploaded.held.callback(None)
    answer = await asking
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")


async def listening(site: SyncSite, *, nobody: bool = False) -> None:
    """Wait until somebody listens, or nobody does."""
    while (len(site.house.engine.stream.listeners) == 0) is not nobody:
        turn: Deferred[None] = Deferred()
        reactor.callLater(0.001, turn.callback, None)
        await turn
