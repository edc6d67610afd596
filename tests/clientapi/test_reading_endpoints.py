# SPDX-License-Identifier: Apache-2.0
"""The endpoints that read rooms, over loopback: paths, parameters, statuses, guests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from homeserver.clientapi.reading import reading_routes
from homeserver.clientapi.token_watch import TokenWatch
from homeserver.rooms.engine import Draft
from homeserver.web.authentication import Requester
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, message
from tests.rooms.reading.reading_fixture import Reading
from tests.web.loopback import Answer, Connection, Loopback, Tokens

V3 = "/_matrix/client/v3"
TOKENS = {
    "alice": Requester(user_id=ALICE, device_id="PHONE"),
    "bob": Requester(user_id="@bob:localhost", device_id="PHONE"),
    "guest": Requester(user_id="@1:localhost", device_id="PHONE", is_guest=True),
}


@dataclass(frozen=True, slots=True)
class Site:
    """A server with a room in it, and a connection to it."""

    reading: Reading
    connection: Connection
    room_id: str
    said: list[str]

    async def get(self, path: str, *, token: str | None = "alice", prefix: str = V3, **query: str) -> Answer:
        """`{room}` and `{said}` in the path are filled in; `from_` stands for `from`."""
        path = path.replace("{room}", quote(self.room_id)).replace("{said}", quote(self.said[1]))
        query = {name.rstrip("_"): value for name, value in query.items()}
        return await self.connection.request("GET", f"{prefix}{path}?{urlencode(query)}", token=token)


class Unending:
    """Users whose tokens never end."""

    epoch = 0

    def watch(self, _user_id: str, _callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


@asynccontextmanager
async def opened(database: Database, visibility: str = "shared") -> AsyncIterator[Site]:
    """With three messages of Alice's, the second at 1,000 ms."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(visibility=visibility)
    drafts = [
        message(ALICE, "0"),
        Draft("m.room.message", ALICE, {}, origin_server_ts=1_000),
        message(ALICE, "2"),
    ]
    said = await reading.write(room.room_id, *drafts)
    tokens = TokenWatch(Tokens(TOKENS), Unending())
    server = Loopback(reading_routes(reading.services, tokens), tokens=TOKENS)
    try:
        yield Site(reading, await server.connect(), room.room_id, said)
    finally:
        await server.stop()


ENDPOINTS = [
    ("/rooms/{room}/messages", {"dir": "b"}),
    ("/rooms/{room}/context/{said}", {}),
    ("/rooms/{room}/event/{said}", {}),
    ("/rooms/{room}/timestamp_to_event", {"ts": "0", "dir": "f"}),
    ("/rooms/{room}/state", {}),
    ("/rooms/{room}/state/m.room.create", {}),
    ("/rooms/{room}/state/m.room.create/", {}),
    ("/rooms/{room}/state/m.room.member/@alice:localhost", {}),
    ("/rooms/{room}/members", {}),
    ("/rooms/{room}/joined_members", {}),
    ("/rooms/{room}/relations/{said}", {"recurse": "true"}),
    ("/rooms/{room}/relations/{said}/m.thread", {"dir": "f"}),
    ("/rooms/{room}/relations/{said}/m.thread/m.room.message", {}),
    ("/rooms/{room}/threads", {"include": "participated"}),
    ("/rooms/{room}/initialSync", {}),
    ("/initialSync", {}),
    ("/events/{said}", {}),
    ("/events", {"timeout": "0"}),
    ("/events", {"timeout": "0", "room_id": "{room}"}),
]


async def test_every_path_answers_under_every_prefix(database: Database) -> None:
    """`v3`, `r0`, `v1` and `unstable`; without a token none does."""
    async with opened(database) as site:
        for path, parameters in ENDPOINTS:
            query = {name: value.replace("{room}", site.room_id) for name, value in parameters.items()}
            for version in ("v3", "r0", "v1", "unstable"):
                answer = await site.get(path, prefix=f"/_matrix/client/{version}", **query)
                assert answer.status == 200, (path, answer.raw)
            assert (await site.get(path, token=None, **query)).status == 401


async def test_guests_read_what_is_open_to_the_world(database: Database) -> None:
    """All that the specification's "Guest Access" lists, and nothing else."""
    closed = ("timestamp_to_event", "joined_members", "/relations/", "/threads", "/events/")
    async with opened(database, "world_readable") as site:
        for path, parameters in ENDPOINTS:
            query = {name: value.replace("{room}", site.room_id) for name, value in parameters.items()}
            refused = any(name in path for name in closed) or (
                path in {"/events", "/initialSync"} and "room_id" not in query
            )
            answer = await site.get(path, token="guest", **query)
            assert answer.status == (403 if refused else 200), (path, answer.raw)
            if refused:
                assert answer.errcode == "M_GUEST_ACCESS_FORBIDDEN"


async def test_strangers_are_refused(database: Database) -> None:
    """403 for a room one may not read, 404 for an event."""
    async with opened(database) as site:
        for path, parameters in ENDPOINTS:
            if "{" not in path:
                continue
            answer = await site.get(path, token="bob", **parameters)
            hidden = any(name in path for name in ("/event/", "/events/", "/relations/"))
            status, code = (404, "M_NOT_FOUND") if hidden else (403, "M_FORBIDDEN")
            assert (answer.status, answer.errcode) == (status, code), path


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("/rooms/{room}/messages", {}, 400, "M_MISSING_PARAM"),
        ("/rooms/{room}/messages", {"dir": "x"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/messages", {"dir": "b", "limit": "-1"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/messages", {"dir": "b", "limit": "x"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/messages", {"dir": "b", "from_": "x"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/messages", {"dir": "b", "filter": "{"}, 400, "M_NOT_JSON"),
        ("/rooms/{room}/messages", {"dir": "b", "filter": "[]"}, 400, "M_BAD_JSON"),
        ("/rooms/{room}/messages", {"dir": "b", "filter": '{"types":"x"}'}, 400, "M_BAD_JSON"),
        ("/rooms/{room}/context/{said}", {"limit": "-1"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/context/$none", {}, 404, "M_NOT_FOUND"),
        ("/rooms/{room}/event/$none", {}, 404, "M_NOT_FOUND"),
        ("/events/$none", {}, 404, "M_NOT_FOUND"),
        ("/rooms/{room}/timestamp_to_event", {"dir": "f"}, 400, "M_MISSING_PARAM"),
        ("/rooms/{room}/timestamp_to_event", {"ts": "0"}, 400, "M_MISSING_PARAM"),
        ("/rooms/{room}/timestamp_to_event", {"ts": "0", "dir": "b"}, 404, "M_NOT_FOUND"),
        ("/rooms/{room}/state/m.room.name", {}, 404, "M_NOT_FOUND"),
        ("/rooms/{room}/state/m.room.create/x", {}, 404, "M_NOT_FOUND"),
        ("/rooms/{room}/state/m.room.create", {"format": "x"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/members", {"membership": "x"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/members", {"at": "x"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/relations/$none", {}, 404, "M_NOT_FOUND"),
        ("/rooms/{room}/relations/{said}", {"dir": "x"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/relations/{said}", {"recurse": "x"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/threads", {"include": "x"}, 400, "M_INVALID_PARAM"),
        ("/rooms/{room}/threads", {"from_": "s1"}, 400, "M_INVALID_PARAM"),
        ("/events", {"from_": "t1_1"}, 400, "M_INVALID_PARAM"),
        ("/initialSync", {"archived": "x"}, 400, "M_INVALID_PARAM"),
    ],
)
async def test_wrong_requests(
    database: Database, path: str, query: dict[str, str], status: int, code: str
) -> None:
    """Each with the specification's error."""
    async with opened(database) as site:
        answer = await site.get(path, **query)
        assert (answer.status, answer.errcode) == (status, code)


async def test_empty_tokens_are_none(database: Database) -> None:
    """Some clients send `from=` when they have none."""
    async with opened(database) as site:
        answer = await site.get("/rooms/{room}/messages", dir="b", from_="", to="", limit="1")
        assert [event["event_id"] for event in answer.json["chunk"]] == site.said[2:]
        assert (await site.get("/events", from_="", timeout="0")).status == 200


async def test_an_event_by_its_id_alone(database: Database) -> None:
    """Is the event that its room gives."""
    async with opened(database) as site:
        answers = [(await site.get(path)).json for path in ("/events/{said}", "/rooms/{room}/event/{said}")]
        for answer in answers:
            del answer["unsigned"]["age"]
        assert answers[0] == answers[1]


async def test_messages_pass_their_parameters_on(database: Database) -> None:
    """Direction, both tokens, limit and filter."""
    async with opened(database) as site:
        wish = '{"types":["m.room.message"],"lazy_load_members":true}'
        first = (await site.get("/rooms/{room}/messages", dir="b", limit="1", filter=wish)).json
        rest = await site.get("/rooms/{room}/messages", dir="b", from_=first["end"], filter=wish)
        assert [event["event_id"] for event in rest.json["chunk"]] == site.said[1::-1]
        assert [event["state_key"] for event in rest.json["state"]] == [ALICE]
        until = await site.get("/rooms/{room}/messages", dir="f", to=first["end"], filter=wish)
        assert [event["event_id"] for event in until.json["chunk"]] == site.said[:2]


async def test_the_formats_of_a_state_event(database: Database) -> None:
    """Its content, or the whole of it (v1.16)."""
    path = "/rooms/{room}/state/m.room.join_rules/"
    async with opened(database) as site:
        for query in ({}, {"format": "content"}):
            assert (await site.get(path, **query)).json == {"join_rule": "public"}
        whole = (await site.get(path, format="event")).json
        assert (whole["type"], whole["state_key"], whole["room_id"]) == (
            "m.room.join_rules",
            "",
            site.room_id,
        )
        assert whole["content"] == {"join_rule": "public"}


async def test_the_event_nearest_to_a_time(database: Database) -> None:
    """Also under the name it had before it was specified."""
    async with opened(database) as site:
        expected: dict[str, Any] = {"event_id": site.said[1], "origin_server_ts": 1_000}
        for prefix in ("/_matrix/client/v1", "/_matrix/client/unstable/org.matrix.msc3030"):
            answer = await site.get("/rooms/{room}/timestamp_to_event", prefix=prefix, ts="2000", dir="b")
            assert answer.json == expected


async def test_children_and_threads(database: Database) -> None:
    """The types in the path choose; `recursion_depth` is told to whom asked; the old name of `threads` answers."""
    async with opened(database) as site:
        relation = {"rel_type": "m.thread", "event_id": site.said[1]}
        reply = await site.reading.write(
            site.room_id, Draft("m.room.message", ALICE, {"m.relates_to": relation})
        )
        for path, found in (
            ("", reply),
            ("/m.thread", reply),
            ("/m.thread/m.sticker", []),
            ("/m.replace", []),
        ):
            answer = (await site.get("/rooms/{room}/relations/{said}" + path)).json
            assert [event["event_id"] for event in answer["chunk"]] == found
            assert "recursion_depth" not in answer
        answer = (await site.get("/rooms/{room}/relations/{said}", recurse="true", limit="1")).json
        assert answer["recursion_depth"] == 3
        for prefix in ("/_matrix/client/v1", "/_matrix/client/unstable/org.matrix.msc3856"):
            chunk = (await site.get("/rooms/{room}/threads", prefix=prefix)).json["chunk"]
            assert [event["event_id"] for event in chunk] == [site.said[1]]
            assert chunk[0]["unsigned"]["m.relations"]["m.thread"]["count"] == 1
