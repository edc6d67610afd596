# SPDX-License-Identifier: Apache-2.0
"""Summaries of rooms and spaces that this server is not in."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from homeserver.errors import Forbidden, NotFound
from homeserver.rooms.creation.wishes import InitialState
from homeserver.rooms.spaces import MOST_ASKED, HierarchyRequest
from storage.database import Database
from tests.clientapi.room_site import RoomSite
from tests.federation.queries.world import V1, Asking, child, summary, tell, tree
from tests.rooms.engine_fixture import ALICE, BOB
from tests.rooms.services_fixture import House, alice, bob

ROOM, SPACE = "!room:hydra.test", "!space:hydra.test"
HIERARCHY = V1 + "/hierarchy"


async def space(house: House, *children: tuple[str, tuple[str, ...]]) -> str:
    """A space of ours with those children and their `via`."""
    return await house.create(
        creation_content={"type": "m.space"},
        preset="public_chat",
        initial_state=[InitialState("m.space.child", each, {"via": list(via)}) for each, via in children],
        name="ours",
    )


async def shown(house: House, room_id: str, user_id: str = BOB, **wanted: Any) -> list[str]:
    """The ids of the rooms of a hierarchy, all pages of it."""
    found: list[str] = []
    since = None
    while True:
        page = await house.rooms.spaces.page(user_id, room_id, HierarchyRequest(since=since, **wanted))
        found += [room["room_id"] for room in page["rooms"]]
        since = page.get("next_batch")
        if since is None:
            return found


async def test_the_summary_of_a_room_elsewhere(database: Database) -> None:
    """By its id and `via`, asked once; under all names of the endpoint, but never for nobody in particular."""
    asking = Asking.build()
    told = summary(ROOM, name="Heads", encryption="m.megolm.v1.aes-sha2", topic=9)
    tell(asking.hydra, {ROOM: {"room": {**told, "children_state": []}}})
    site = RoomSite(await asking.house(database), database)
    path = f"/_matrix/client/v1/room_summary/{ROOM}"
    unstable = f"/_matrix/client/unstable/im.nheko.summary/summary/{ROOM}"
    try:
        body = await site.ok("bob", "GET", path, via="hydra.test")
        assert body == {**{k: v for k, v in told.items() if k != "topic"}, "membership": "leave"}
        body = await site.ok("bob", "GET", unstable, via="hydra.test")
        assert body["im.nheko.summary.room_version"] == "11"
        assert len(asking.hydra.requests("GET", HIERARCHY)) == 1
        for token in (None, "bob"):
            named = "!other:hydra.test" if token else ROOM
            answer = await site.call(
                token, "GET", f"/_matrix/client/v1/room_summary/{named}", None, {"via": "hydra.test"}
            )
            assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
        answer = await site.call(None, "GET", "/_matrix/client/v1/room_summary/#tea:hydra.test")
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
        assert asking.hydra.requests("GET", V1 + "/query") == []
    finally:
        await site.stop()


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"join_rule": "public"}, True),
        ({"join_rule": "knock"}, True),
        ({"join_rule": "knock_restricted"}, True),
        ({"join_rule": "invite"}, False),
        ({"join_rule": "invite", "world_readable": True}, True),
        ({"join_rule": "restricted", "allowed_room_ids": ["CLUB"]}, True),
        ({"join_rule": "restricted", "allowed_room_ids": ["!else:where"]}, False),
        ({"join_rule": "restricted"}, False),
        ({"join_rule": 5}, True),
    ],
)
async def test_who_may_know_of_a_room_elsewhere(
    database: Database, fields: dict[str, Any], seen: bool
) -> None:
    """The other server tells what any of our users could see; which of them may is decided here."""
    asking = Asking.build()
    house = await asking.house(database)
    club = await house.public(bob)
    fields = {**fields}
    if "CLUB" in fields.get("allowed_room_ids", ()):
        fields["allowed_room_ids"] = [club]
    tell(asking.hydra, {ROOM: {"room": summary(ROOM, **fields)}})
    root = await space(house, (ROOM, ("hydra.test",)))
    if seen:
        assert (await house.rooms.summaries.summary(BOB, ROOM, ["hydra.test"]))["room_id"] == ROOM
    else:
        with pytest.raises(NotFound):
            await house.rooms.summaries.summary(BOB, ROOM, ["hydra.test"])
    assert await shown(house, root) == [root, *([ROOM] if seen else [])]


async def test_a_space_with_rooms_elsewhere(database: Database) -> None:
    """Spaces are asked for, what they tell of their rooms is used, and rooms of ours below them are shown as ours."""
    asking = Asking.build()
    house = await asking.house(database)
    ours = await house.create(preset="public_chat", name="tea")
    secret = await house.create()
    inner, leaf, hidden = "!inner:other.test", "!leaf:hydra.test", "!hidden:hydra.test"
    top = tree(
        SPACE,
        [
            child(leaf, order="1"),
            child(inner, "other.test", order="2"),
            child(ours),
            child(secret),
            child(hidden),
        ],
    )
    top["children"] = [summary(leaf, name="leaf"), summary(inner, room_type="m.space")]
    top["inaccessible_children"] = [hidden]
    tell(asking.hydra, {SPACE: top})
    tell(asking.other, {inner: tree(inner, [child("!deep:other.test", "other.test"), child(SPACE)])})
    root = await space(house, (SPACE, ("hydra.test",)))
    assert await shown(house, root) == [root, SPACE, leaf, inner, ours]
    assert await shown(house, root, limit=2) == [root, SPACE, leaf, inner, ours]
    assert await shown(house, root, max_depth=1) == [root, SPACE]
    assert set(await shown(house, root, user_id=ALICE)) == {root, SPACE, leaf, inner, ours, secret}
    asked = [each.parameters["room"] for each in asking.hydra.requests("GET", HIERARCHY)]
    assert asked == [SPACE]
    asked = [each.parameters["room"] for each in asking.other.requests("GET", HIERARCHY)]
    assert sorted(set(asked)) == ["!deep:other.test", inner]
    assert len(asked) == 2
    page = await house.rooms.spaces.page(BOB, root, HierarchyRequest())
    rooms = {room["room_id"]: room for room in page["rooms"]}
    assert [state["state_key"] for state in rooms[SPACE]["children_state"]][:2] == [leaf, inner]
    assert rooms[leaf]["children_state"] == []
    assert rooms[ours]["name"] == "tea"


async def test_a_space_we_are_not_in(database: Database) -> None:
    """It is asked for by the servers the client names; what nobody tells of is forbidden like what must not be seen."""
    asking = Asking.build()
    house = await asking.house(database)
    tell(asking.other, {SPACE: tree(SPACE, [child(ROOM)]), ROOM: {"room": summary(ROOM)}})
    tell(asking.hydra, {})
    page = await house.rooms.spaces.page(BOB, SPACE, HierarchyRequest(), ["other.test"])
    assert [room["room_id"] for room in page["rooms"]] == [SPACE]
    with pytest.raises(Forbidden):
        await house.rooms.spaces.page(BOB, "!nowhere:hydra.test", HierarchyRequest())


async def test_a_space_of_hostile_words(database: Database) -> None:
    """Answers about other rooms, events that are none, numbers of any size: none of it comes to a client."""
    asking = Asking.build()
    house = await asking.house(database)
    good = child(ROOM, order=7)
    bad: list[Any] = [
        5,
        {**good, "type": "m.room.member"},
        {**good, "state_key": "no room"},
        {**good, "sender": "nobody"},
        {**good, "origin_server_ts": 10**30},
        {**good, "origin_server_ts": "1"},
        {**good, "content": []},
        {**good, "content": {"via": ["hydra.test"], "x": 10**30}},
        {**good, "content": {"via": ["hydra.test"], "x": "y" * 70_000}},
        {**good, "state_key": "!novia:hydra.test", "content": {"via": "hydra.test"}},
    ]
    other = "!other:hydra.test"
    told = tree(SPACE, [*bad, good])
    told["children"] = [summary("!unasked:hydra.test"), summary(ROOM, name="good")]
    tell(asking.hydra, {SPACE: told, other: {"room": summary(ROOM)}})
    root = await space(house, (SPACE, ("hydra.test",)), (other, ("hydra.test",)))
    page = await house.rooms.spaces.page(BOB, root, HierarchyRequest())
    assert [room["room_id"] for room in page["rooms"]] == [root, SPACE, ROOM]
    assert [state["state_key"] for state in page["rooms"][1]["children_state"]] == [ROOM]


async def test_one_servers_word_is_not_shown_for_anothers(database: Database) -> None:
    """An answer is kept by the server that gave it: who names a lying server is lied to alone."""
    asking = Asking.build()
    house = await asking.house(database)
    tell(asking.hydra, {ROOM: {"room": summary(ROOM, name="true")}})
    tell(asking.other, {ROOM: {"room": summary(ROOM, name="lie")}})
    summaries = house.rooms.summaries
    assert (await summaries.summary(ALICE, ROOM, ["other.test"]))["name"] == "lie"
    assert (await summaries.summary(BOB, ROOM, ["hydra.test"]))["name"] == "true"


async def test_few_are_asked_for_one_tree(database: Database) -> None:
    """However many rooms elsewhere a space names, and however many servers for each."""
    asking = Asking.build()
    house = await asking.house(database)
    tell(asking.hydra, {})
    tell(asking.other, {})
    gone = [f"gone{number}.test" for number in range(10)]
    children = [(f"!{number}:hydra.test", ("hydra.test",)) for number in range(MOST_ASKED + 10)]
    root = await space(house, *children)
    assert await shown(house, root) == [root]
    assert len(asking.hydra.requests("GET", HIERARCHY)) == MOST_ASKED
    hard = await space(house, ("!last:other.test", (*gone, "other.test")))
    assert await shown(house, hard) == [hard]
    assert asking.other.requests("GET", HIERARCHY) == []


async def test_rooms_we_left_are_asked_for(database: Database) -> None:
    """What was known of them here is old; it is shown where nobody tells more."""
    asking = Asking.build()
    house = await asking.house(database)
    room_id = await house.create(preset="public_chat", version="11", name="old")
    await house.rooms.leaving.leave(alice, room_id)
    assert (await house.rooms.summaries.summary(BOB, room_id, ["hydra.test"]))["name"] == "old"
    tell(asking.other, {room_id: {"room": summary(room_id, name="new")}})
    assert (await house.rooms.summaries.summary(BOB, room_id, ["other.test"]))["name"] == "new"


async def test_waiting_ends_when_the_client_goes(database: Database) -> None:
    """Giving up ends the wait and leaves the question to those who ask next."""
    asking = Asking.build()
    held: Deferred[None] = Deferred()

    async def hold(*_request: str) -> None:
        await held

    asking.network.before = hold
    tell(asking.hydra, {ROOM: {"room": summary(ROOM)}})
    first = Deferred.fromCoroutine(asking.summaries.trees({ROOM: ["hydra.test"]}))
    outcome: list[Any] = []
    first.addBoth(outcome.append)
    first.cancel()
    assert len(outcome) == 1
    second = Deferred.fromCoroutine(asking.summaries.trees({ROOM: ["hydra.test"]}))
    held.callback(None)
    assert set(await second) == {ROOM}
    assert len(asking.hydra.requests("GET", HIERARCHY)) == 1
