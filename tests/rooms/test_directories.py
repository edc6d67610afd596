# SPDX-License-Identifier: Apache-2.0
"""Aliases, the list of published rooms, summaries and space hierarchies."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from homeserver.errors import Forbidden, InvalidParam, MatrixError, NotFound, UserSuspended
from homeserver.rooms.aliases import AliasTaken
from homeserver.rooms.creation.wishes import InitialState
from homeserver.rooms.directory import DirectoryFilter
from homeserver.rooms.spaces import HierarchyRequest
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL
from tests.rooms.services_fixture import House, User, alice, bob, carol

admin = User("@root:localhost", is_admin=True)


async def test_an_alias_is_made_found_listed_and_removed(database: Database) -> None:
    """By members only, once, on this server's domain only."""
    house = await House.open(database)
    aliases = house.rooms.aliases
    room_id = await house.public(bob)
    await aliases.create(bob, "#tea:localhost", room_id)
    assert await aliases.resolve("#tea:localhost") == room_id
    assert await aliases.of_room(alice, room_id) == ["#tea:localhost"]
    for actor, alias, target, error in (
        (bob, "#tea:localhost", room_id, AliasTaken),
        (carol, "#more:localhost", room_id, Forbidden),
        (bob, "#more:elsewhere.org", room_id, InvalidParam),
        (bob, "more", room_id, InvalidParam),
        (bob, "#more:localhost", "!unknown:localhost", NotFound),
        (User(BOB, is_suspended=True), "#more:localhost", room_id, UserSuspended),
    ):
        with pytest.raises(error):
            await aliases.create(actor, alias, target)
    with pytest.raises(Forbidden):
        await aliases.of_room(carol, room_id)
    await house.set(alice, room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    assert await aliases.of_room(carol, room_id) == ["#tea:localhost"]


@pytest.mark.parametrize(
    ("actor", "error"),
    [(bob, None), (alice, None), (admin, None), (carol, Forbidden)],
    ids=["maker", "moderator", "server admin", "member"],
)
async def test_who_may_remove_an_alias(
    database: Database, actor: User, error: type[MatrixError] | None
) -> None:
    """And the room no longer names it if the remover had the power to say so."""
    house = await House.open(database)
    aliases = house.rooms.aliases
    room_id = await house.public(bob, carol)
    await aliases.create(bob, "#tea:localhost", room_id)
    await aliases.create(alice, "#leaf:localhost", room_id)
    content = {"alias": "#tea:localhost", "alt_aliases": ["#leaf:localhost", "#tea:localhost"], "x": 1}
    await house.set(alice, room_id, "m.room.canonical_alias", content)
    if error is not None:
        with pytest.raises(error):
            await aliases.remove(actor, "#tea:localhost")
        return
    await aliases.remove(actor, "#tea:localhost")
    with pytest.raises(NotFound):
        await aliases.resolve("#tea:localhost")
    with pytest.raises(NotFound):
        await aliases.remove(actor, "#tea:localhost")
    expected = {"alt_aliases": ["#leaf:localhost"], "x": 1} if actor is alice else content
    assert (await house.head(room_id)).content("m.room.canonical_alias") == expected


@pytest.mark.parametrize(
    ("publication", "may"),
    [("members", {"moderator", "admin"}), ("admins", {"admin"}), ("nobody", set())],
)
async def test_who_may_publish(
    database: Database, publication: Literal["members", "admins", "nobody"], may: set[str]
) -> None:
    """As the configuration says, and only with power in the room."""
    house = await House.open(database, publication=publication)
    room_id = await house.public(bob)
    directory = house.rooms.directory
    for name, actor in (("moderator", alice), ("admin", admin), ("member", bob), ("outsider", carol)):
        if name in may:
            await directory.set_published(actor, room_id, True)
            assert await directory.is_published(room_id)
            await directory.set_published(actor, room_id, False)
        else:
            with pytest.raises(Forbidden):
                await directory.set_published(actor, room_id, True)
        assert not await directory.is_published(room_id)
    for doing in (
        directory.is_published("!x:localhost"),
        directory.set_published(admin, "!x:localhost", True),
    ):
        with pytest.raises(NotFound):
            await doing


async def test_the_list_is_searched_and_paged(database: Database) -> None:
    """Most members first; forwards and back over the same rooms; terms are no patterns."""
    house = await House.open(database)
    members = [bob, carol, admin]
    made: dict[str, str] = {}
    for number, (name, more) in enumerate(
        {
            "Tea room": {"topic": "leaves_100%"},
            "Coffee": {"alias_localpart": "teatime"},
            "Space": {"creation_content": {"type": "m.space"}},
            "Garden": {},
        }.items()
    ):
        made[name] = await house.create(visibility="public", name=name, **more)  # type: ignore[arg-type]
        for member in members[:number]:
            await house.rooms.joining.join(member, made[name])
    await house.create(preset="public_chat", name="Tea, but not published")

    async def found(**wanted: Any) -> list[str]:
        page = (await house.rooms.directory.page(DirectoryFilter(**wanted))).as_json()
        return [chunk["name"] for chunk in page["chunk"]]

    assert await found() == ["Garden", "Space", "Coffee", "Tea room"]
    assert await found(term="TEA") == ["Coffee", "Tea room"]
    assert await found(term="s_100%") == ["Tea room"]
    assert await found(term="s%100") == []
    assert await found(room_types=["m.space"]) == ["Space"]
    assert await found(room_types=[None]) == ["Garden", "Coffee", "Tea room"]
    assert await found(room_types=["m.space", None]) == ["Garden", "Space", "Coffee", "Tea room"]
    assert await found(room_types=[]) == []

    page = house.rooms.directory.page
    first = await page(DirectoryFilter(), limit=3)
    assert (len(first.rooms), first.prev_batch, first.total) == (3, None, 4)
    second = await page(DirectoryFilter(), limit=3, since=first.next_batch)
    assert [room.name for room in second.rooms] == ["Tea room"]
    assert second.next_batch is None
    back = await page(DirectoryFilter(), limit=3, since=second.prev_batch)
    assert [room.name for room in back.rooms] == ["Garden", "Space", "Coffee"]
    assert back.prev_batch is None
    assert back.next_batch == first.next_batch
    with pytest.raises(InvalidParam):
        await page(DirectoryFilter(), since="junk")


async def test_an_entry_of_the_list(database: Database) -> None:
    """Its fields, the unset ones left out."""
    house = await House.open(database)
    room_id = await house.create(visibility="public", alias_localpart="tea", topic="leaves")
    page = (await house.rooms.directory.page(DirectoryFilter())).as_json()
    assert page == {
        "chunk": [
            {
                "room_id": room_id,
                "num_joined_members": 1,
                "world_readable": False,
                "guest_can_join": False,
                "join_rule": "public",
                "topic": "leaves",
                "canonical_alias": "#tea:localhost",
            }
        ],
        "total_room_count_estimate": 1,
    }


@pytest.mark.parametrize(
    ("state", "seen_by"),
    [
        ({}, {ALICE, CAROL}),
        ({"m.room.join_rules": {"join_rule": "public"}}, {ALICE, BOB, CAROL, None}),
        ({"m.room.join_rules": {"join_rule": "knock"}}, {ALICE, BOB, CAROL, None}),
        ({"m.room.join_rules": {"join_rule": "knock_restricted"}}, {ALICE, BOB, CAROL, None}),
        ({"m.room.history_visibility": {"history_visibility": "world_readable"}}, {ALICE, BOB, CAROL, None}),
        ({"m.room.join_rules": {"join_rule": "restricted", "allow": "CLUB"}}, {ALICE, BOB, CAROL}),
        ({"m.room.join_rules": {"join_rule": "restricted"}}, {ALICE, CAROL}),
    ],
)
async def test_who_may_have_a_summary(
    database: Database, state: dict[str, dict[str, Any]], seen_by: set[str | None]
) -> None:
    """Alice is in the room, Carol invited, Bob in the club, None nobody in particular."""
    house = await House.open(database)
    club = await house.public(bob)
    room_id = await house.create(name="Tea", invite=(CAROL,))
    for event_type, content in state.items():
        allow = {"allow": [{"type": "m.room_membership", "room_id": club}]} if "allow" in content else {}
        await house.set(alice, room_id, event_type, {**content, **allow})
    for user in (ALICE, BOB, CAROL, None):
        if user in seen_by:
            summary = await house.rooms.summaries.summary(user, room_id)
            assert summary["name"] == "Tea"
            assert (
                summary.get("membership") == {ALICE: "join", BOB: "leave", CAROL: "invite", None: None}[user]
            )
        else:
            with pytest.raises(NotFound):
                await house.rooms.summaries.summary(user, room_id)


async def space(house: House, *children: tuple[str, dict[str, Any]], **wishes: Any) -> str:
    """A space with those children."""
    return await house.create(
        creation_content={"type": "m.space"},
        preset="public_chat",
        initial_state=[
            InitialState("m.space.child", child, {"via": ["localhost"], **content})
            for child, content in children
        ],
        **wishes,
    )


async def test_a_space_is_walked_depth_first_and_in_pages(database: Database) -> None:
    """Ordered children, hidden rooms left out, loops cut, suggested ones alone on request."""
    house = await House.open(database)
    rooms = {name: await house.create(preset="public_chat", name=name) for name in ("a", "b", "c")}
    hidden = await house.create()
    inner = await space(house, (rooms["c"], {}), (rooms["a"], {}), name="inner")
    root = await space(
        house,
        (rooms["a"], {}),
        (rooms["b"], {"order": "2", "suggested": True}),
        (inner, {"order": "1"}),
        (hidden, {}),
        ("!unknown:localhost", {}),
        (rooms["c"], {"via": []}),
        name="root",
    )
    await house.set(alice, inner, "m.space.child", {"via": ["localhost"]}, root)

    async def walk(**wanted: Any) -> list[str]:
        names: list[str] = []
        since = None
        while True:
            page = await house.rooms.spaces.page(BOB, root, HierarchyRequest(since=since, **wanted))
            names += [room["name"] for room in page["rooms"]]
            since = page.get("next_batch")
            if since is None:
                return names

    assert await walk() == ["root", "inner", "c", "a", "b"]
    assert await walk(limit=2) == ["root", "inner", "c", "a", "b"]
    assert await walk(max_depth=1) == ["root", "inner", "b", "a"]
    assert await walk(max_depth=0) == ["root"]
    assert await walk(suggested_only=True) == ["root", "b"]
    first = await house.rooms.spaces.page(BOB, root, HierarchyRequest(limit=1))
    children = first["rooms"][0]["children_state"]
    assert [child["state_key"] for child in children][:2] == [inner, rooms["b"]]
    assert set(children[0]) == {"type", "state_key", "content", "sender", "origin_server_ts"}
    for wanted in (HierarchyRequest(since=first["next_batch"], max_depth=1), HierarchyRequest(since="junk")):
        with pytest.raises(InvalidParam):
            await house.rooms.spaces.page(BOB, root, wanted)
    with pytest.raises(Forbidden):
        await house.rooms.spaces.page(BOB, hidden, HierarchyRequest())
