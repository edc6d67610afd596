# SPDX-License-Identifier: Apache-2.0
"""Lists of rooms of other servers, and aliases that lead elsewhere, by the endpoints of clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from homeserver.errors import BadAlias
from storage.database import Database
from tests.clientapi.room_site import RoomSite
from tests.federation.queries.world import V1, Asking, summary
from tests.federation.servers import Received, Refused
from tests.rooms.services_fixture import House, alice

LIST = V1 + "/publicRooms"


@asynccontextmanager
async def site(asking: Asking, database: Database) -> AsyncIterator[RoomSite]:
    """The endpoints, stopped in the end."""
    site = RoomSite(await asking.house(database), database)
    try:
        yield site
    finally:
        await site.stop()


async def test_a_list_of_another_server(database: Database) -> None:
    """Its pages, and nothing of the wrong type in them; asked once a minute."""
    asking = Asking.build()
    asking.hydra.on(
        "GET",
        LIST,
        lambda _request: {
            "chunk": [
                summary("!a:hydra.test", name="A", topic=7, avatar_url="https://spy", extra={"x": 1}),
                summary("no room"),
                {"name": "nothing"},
                summary("!a:hydra.test", name="again"),
                summary("!b:hydra.test", num_joined_members="many", world_readable="yes"),
            ],
            "next_batch": "more",
            "prev_batch": 4,
            "total_room_count_estimate": 10**30,
        },
    )
    async with site(asking, database) as rooms:
        for _ in range(2):
            page = await rooms.ok(
                "alice", "GET", "/publicRooms", server="hydra.test", limit="5", since="token"
            )
        assert [room["room_id"] for room in page["chunk"]] == ["!a:hydra.test", "!b:hydra.test"]
        first, second = page["chunk"]
        assert (first["name"], first["num_joined_members"]) == ("A", 2)
        assert not {"topic", "avatar_url", "extra"} & set(first)
        assert (second["num_joined_members"], second["world_readable"]) == (0, False)
        assert {key: value for key, value in page.items() if key != "chunk"} == {"next_batch": "more"}
        (request,) = asking.hydra.requests("GET", LIST)
        assert request.query == {"limit": ["5"], "since": ["token"]}
        asking.clock.now += 61
        await rooms.ok("alice", "GET", "/publicRooms", server="hydra.test", limit="5", since="token")
        assert len(asking.hydra.requests("GET", LIST)) == 2


async def test_a_search_of_another_servers_list(database: Database) -> None:
    """The filter goes along."""
    asking = Asking.build()
    asking.hydra.on("POST", LIST, lambda _request: {"chunk": [summary("!a:hydra.test")]})
    body = {
        "limit": 10_000,
        "filter": {"generic_search_term": "tea", "room_types": [None, "m.space"]},
        "third_party_instance_id": "irc",
    }
    async with site(asking, database) as rooms:
        answer = await rooms.call("alice", "POST", "/publicRooms", body, {"server": "hydra.test"})
        assert answer.status == 200, answer.raw
    (request,) = asking.hydra.requests("POST", LIST)
    assert request.json == {**body, "limit": 500}


async def test_who_may_ask_and_what_may_be_asked(database: Database) -> None:
    """Nobody unknown makes this server ask others; failures are told as such."""
    asking = Asking.build()
    asking.hydra.on("GET", LIST, _refuse)
    async with site(asking, database) as rooms:
        cases: tuple[tuple[str | None, str, int, str], ...] = (
            (None, "hydra.test", 401, "M_MISSING_TOKEN"),
            ("alice", "not a server", 400, "M_INVALID_PARAM"),
            ("alice", "hydra.test", 403, "M_FORBIDDEN"),
            ("alice", "gone.test", 502, "M_UNKNOWN"),
        )
        for token, server, status, errcode in cases:
            answer = await rooms.call(token, "GET", "/publicRooms", None, {"server": server})
            assert (answer.status, answer.errcode) == (status, errcode), server
        own = await rooms.call(None, "GET", "/publicRooms", None, {"server": "localhost"})
        assert own.status == 200


async def test_an_alias_of_another_server(database: Database) -> None:
    """`GET /directory/room` asks the server of the alias."""
    asking = Asking.build()
    asking.hydra.on("GET", V1 + "/query/directory", _directory)
    async with site(asking, database) as rooms:
        found = await rooms.ok(None, "GET", "/directory/room/#tea:hydra.test")
        assert found == {"room_id": "!tea:hydra.test", "servers": ["hydra.test", "other.test"]}
        answer = await rooms.call(None, "GET", "/directory/room/#coffee:hydra.test")
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
        answer = await rooms.call(None, "GET", "/directory/room/tea:hydra.test")
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_a_room_claims_only_aliases_that_lead_to_it(database: Database) -> None:
    """Also those of other servers, which are asked; a few at a time."""
    asking = Asking.build()
    house = await asking.house(database)
    room_id = await house.public(version="11")
    asking.hydra.on("GET", V1 + "/query/directory", lambda request: _leads(request, room_id))
    await claim(house, room_id, {"alias": "#tea:hydra.test"})
    assert (await house.head(room_id)).content("m.room.canonical_alias") == {"alias": "#tea:hydra.test"}
    assert len(asking.hydra.received) == 1
    await claim(house, room_id, {"alias": "#tea:hydra.test", "alt_aliases": ["#green:hydra.test"]})
    assert len(asking.hydra.received) == 2
    for content in (
        {"alias": "#elsewhere:hydra.test"},
        {"alias": "#missing:hydra.test"},
        {"alias": "#tea:gone.test"},
        {"alt_aliases": [f"#tea{number}:hydra.test" for number in range(11)]},
    ):
        with pytest.raises(BadAlias):
            await claim(house, room_id, content)
    assert len(asking.hydra.received) == 4


async def claim(house: House, room_id: str, content: dict[str, Any]) -> None:
    """Alice sets the room's aliases."""
    await house.set(alice, room_id, "m.room.canonical_alias", content)


def _leads(request: Received, room_id: str) -> Any:
    (alias,) = request.query["room_alias"]
    if alias == "#missing:hydra.test":
        raise Refused(404, "M_NOT_FOUND")
    leads = "!elsewhere:hydra.test" if alias == "#elsewhere:hydra.test" else room_id
    return {"room_id": leads, "servers": ["hydra.test"]}


def _directory(request: Received) -> Any:
    if request.query["room_alias"] != ["#tea:hydra.test"]:
        raise Refused(404, "M_NOT_FOUND")
    return {"room_id": "!tea:hydra.test", "servers": ["hydra.test", "other.test"]}


def _refuse(_request: Received) -> Any:
    raise Refused(403, "M_FORBIDDEN")
