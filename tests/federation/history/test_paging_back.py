# SPDX-License-Identifier: Apache-2.0
"""A client that scrolls back into what happened before this server came, or while it was away."""

from __future__ import annotations

import pytest

from homeserver.errors import NotFound
from storage.database import Database
from tests.federation.history.history_fixture import ALICE, Client, World, event_ids, ids


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_all_the_way_to_the_beginning(database: Database, version: str) -> None:
    """Five hundred messages come in portions; every event once, in its order, and then no more."""
    world = await World.open(database, version)
    for number in range(500):
        world.remote.message(str(number))
    await world.enter()
    assert await world.walk(limit=50) == world.line()
    assert len(world.backfills()) == 6
    assert await world.walk(limit=100) == world.line()
    assert len(world.backfills()) == 6


async def test_state_in_the_past(database: Database) -> None:
    """Who came, went and changed something long ago is no part of the present."""
    world = await World.open(database)
    bob = world.hydra.user("bob")
    for number in range(130):
        if number % 7 == 0:
            world.remote.member(bob, "leave" if number % 2 else "join")
        elif number % 5 == 0:
            world.remote.send("m.room.topic", {"topic": str(number)}, "")
        else:
            world.remote.message(str(number))
    room = await world.enter()
    before = dict(room.head.members), room.head.extremities, room.head.snapshot
    assert await world.walk(limit=30) == world.line()
    room = await world.engine.cache.get(world.remote.id) or room
    assert (dict(room.head.members), room.head.extremities, room.head.snapshot) == before
    assert room.head.text("m.room.topic", "topic") == "125"


async def test_branches(database: Database) -> None:
    """Both are shown, wherever portions end."""
    world = await World.open(database)
    remote = world.remote
    for number in range(240):
        if number % 30 == 0:
            base = list(remote.latest)
            branches = []
            for name in ("one", "other"):
                branch = remote.event("m.room.message", {"body": f"{number} {name}"}, prev=base)
                remote.events[branch.event.event_id] = branch
                branches.append(branch)
            remote.latest = branches
        else:
            remote.message(str(number))
    await world.enter()
    found = await world.walk(limit=25)
    assert len(found) == len(set(found)) and set(found) == set(world.line())
    depths = [remote.events[event_id].event.depth for event_id in found]
    assert depths == sorted(depths, reverse=True)


async def test_a_gap_in_the_middle(database: Database) -> None:
    """What was sent while nobody told us is shown where it belongs."""
    world = await World.open(database)
    await world.enter()
    before = [world.remote.message(f"before {number}") for number in range(3)]
    await world.receive(*before)
    missed = [world.remote.message(f"missed {number}") for number in range(250)]
    world.remote.send("m.room.topic", {"topic": "missed"}, "")
    after = [world.remote.message(f"after {number}") for number in range(3)]
    await world.receive(*after, gap=True)
    page = await world.page(limit=2)
    assert ids(page["chunk"]) == event_ids(after[2], after[1])
    assert world.backfills() == [], "a page that ends before the gap asks nobody"
    assert await world.walk(limit=40) == world.line()
    assert set(event_ids(*missed)) <= set(world.line())


async def test_forwards_over_a_gap(database: Database) -> None:
    """Paging forwards fetches a little of what is missing, and always gets on."""
    world = await World.open(database)
    await world.enter()
    before = world.remote.message("before")
    await world.receive(before)
    start = (await world.page(limit=1))["end"]
    for number in range(150):
        world.remote.message(str(number))
    after = world.remote.message("after")
    await world.receive(after, gap=True)
    found = await world.walk(backwards=False, start=start, limit=40)
    assert found == world.line()[151::-1]


async def test_a_room_of_our_own_asks_nobody(database: Database) -> None:
    world = await World.open(database)
    room = await world.engine.new_room()
    for number in range(5):
        await world.engine.send(room.room_id, ALICE, str(number))
    page = await world.reading.page(ALICE, room.room_id, limit=100)
    assert "end" not in page
    assert not world.hydra.received and not world.evil.received


async def test_history_that_one_may_not_see_is_not_shown(database: Database) -> None:
    """Where only those see an event who were there, fetching it changes nothing; pagination still ends."""
    world = await World.open(database, visibility="joined")
    unseen = [world.remote.message(str(number)) for number in range(120)]
    await world.enter()
    said = world.remote.message("hello")
    await world.receive(said)
    found = await world.walk(limit=10)
    beginning = 5  # up to where the room's history was closed
    assert found == [*world.line()[:2], *world.line()[-beginning:]]
    with pytest.raises(NotFound):
        await world.reading.services.event.get(Client(ALICE), world.remote.id, unseen[0].event.event_id)


async def test_redactions_of_the_past_apply(database: Database) -> None:
    world = await World.open(database)
    secret = world.remote.message("secret")
    redaction = world.hydra.pdu(
        version=world.remote.version,
        room_id=world.remote.id,
        event_type="m.room.redaction",
        content={"redacts": secret.event.event_id},
        prev=world.remote.latest,
        auth=[
            world.remote.state[key]
            for key in (
                ("m.room.create", ""),
                ("m.room.power_levels", ""),
                ("m.room.member", world.hydra.user()),
            )
        ],
    )
    world.remote.add(redaction)
    await world.enter()
    page = await world.page(limit=100)
    shown = next(each for each in page["chunk"] if each["event_id"] == secret.event.event_id)
    assert shown["content"] == {}
    assert shown["unsigned"]["redacted_because"]["event_id"] == redaction.event.event_id


@pytest.mark.parametrize("version", ["1", "11"])
@pytest.mark.parametrize("power_lost", [True, False])
async def test_redactions_that_are_dated_back(database: Database, version: str, power_lost: bool) -> None:
    """Who has lost the power to redact cannot do so any more as of the time when they had it."""
    world = await World.open(database, version)
    remote, mallory = world.remote, world.evil.user("mallory")
    remote.send("m.room.power_levels", {"users": {world.hydra.user(): 100, mallory: 50}}, "")
    secret = remote.message("stays" if power_lost else "goes")
    needed = (("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", mallory))
    redaction = world.evil.pdu(
        version=remote.version,
        room_id=remote.id,
        event_type="m.room.redaction",
        sender=mallory,
        content={"redacts": secret.event.event_id} if version == "11" else {},
        redacts=None if version == "11" else secret.event.event_id,
        prev=remote.latest,
        auth=[remote.state[key] for key in needed],
    )
    if power_lost:
        remote.send("m.room.power_levels", {"users": {world.hydra.user(): 100}}, "")
    remote.events[redaction.event.event_id] = redaction
    remote.latest.append(redaction)
    remote.message("on both")
    await world.enter()
    page = await world.page(limit=100)
    shown = {each["event_id"]: each for each in page["chunk"]}
    assert redaction.event.event_id in shown
    assert ("body" in shown[secret.event.event_id]["content"]) is power_lost
