# SPDX-License-Identifier: Apache-2.0
"""Pages of a room's timeline: together they are exactly what the user may see, whatever lies in between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.errors import Forbidden, InvalidParam
from homeserver.protocol.filters import RoomEventFilter
from homeserver.protocol.tokens import PlaceToken, SyncToken, TokenError
from homeserver.rooms.engine import Draft
from homeserver.rooms.reading import timeline as walking
from storage.database import Database
from storage.events import TimelinePlace
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member, message
from tests.rooms.reading.reading_fixture import Reading, ids, visibility

STEPS = st.lists(
    st.sampled_from(
        ("say", "say", "say", "world_readable", "shared", "invited", "joined", "join", "leave", "invite")
    ),
    max_size=25,
)


async def act(reading: Reading, room_id: str, steps: list[str]) -> None:
    """Alice speaks and changes the visibility; Bob comes and goes."""
    present = "leave"
    for number, step in enumerate(steps):
        if step == "say":
            await reading.write(room_id, message(ALICE, str(number)))
        elif step in ("join", "leave", "invite"):
            if step == present or (step == "invite" and present == "join"):
                continue
            await reading.write(room_id, member(BOB, step, ALICE if step == "invite" else BOB))
            present = step
        else:
            await reading.write(room_id, visibility(ALICE, step))


async def visible_to(reading: Reading, user: str, room_id: str) -> list[str]:
    """Event by event what the gate lets the user see, up to where they left, in the timeline's order."""
    access = await reading.engine.gate.access_room(user, room_id)
    stored = await reading.engine.events.page(
        access.room.key, TimelinePlace(0, 0), backwards=False, limit=10_000
    )
    return [
        each.event_id
        for each in stored
        if (access.until is None or each.position <= access.until)
        and access.sight.may_see(reading.engine.gate.in_memory(access.room, each))
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, limit=st.integers(1, 12), cut=st.integers(0, 30))
async def test_pages_together_are_the_visible_timeline(
    database: Database, steps: list[str], limit: int, cut: int
) -> None:
    """Over random histories, limits, directions and starting points: nothing is missing, doubled or out of order."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await act(reading, room.room_id, [*steps, "join"])
    expected = await visible_to(reading, BOB, room.room_id)
    assert await reading.walk(BOB, room.room_id, limit=limit, backwards=False) == expected
    assert await reading.walk(BOB, room.room_id, limit=limit) == expected[::-1]

    access = await reading.engine.gate.access_room(BOB, room.room_id)
    stored = await reading.engine.events.page(
        access.room.key, TimelinePlace(0, 0), backwards=False, limit=10_000
    )
    at = stored[min(cut, len(stored) - 1)]
    below = [each for each in expected if each in {s.event_id for s in stored if s.position <= at.position}]
    above = expected[len(below) :]
    for token in (str(SyncToken(at.position)), str(PlaceToken.after(at.depth, at.position))):
        assert await reading.walk(BOB, room.room_id, limit=limit, start=token) == below[::-1]
        assert await reading.walk(BOB, room.room_id, limit=limit, start=token, backwards=False) == above
        assert await reading.walk(BOB, room.room_id, limit=limit, stop=token) == above[::-1]
        assert await reading.walk(BOB, room.room_id, limit=limit, stop=token, backwards=False) == below


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, limit=st.integers(1, 12))
async def test_who_left_pages_through_what_they_could_see(
    database: Database, steps: list[str], limit: int
) -> None:
    """After the leave nothing more appears, in either direction, and pagination still ends."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await act(reading, room.room_id, ["join", *steps])
    if room.head.membership(BOB) in ("join", "invite"):
        await reading.write(room.room_id, member(BOB, "leave"))
    await reading.write(room.room_id, visibility(ALICE, "shared"), message(ALICE, "behind your back"))
    expected = await visible_to(reading, BOB, room.room_id)
    assert await reading.walk(BOB, room.room_id, limit=limit, backwards=False) == expected
    assert await reading.walk(BOB, room.room_id, limit=limit) == expected[::-1]


async def test_a_stretch_of_invisible_events_does_not_end_pagination(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More invisible events than one request looks at: empty pages with progressing tokens lead to what lies behind.

    CVE-2026-45076: a page of rejected events ended pagination.
    """
    monkeypatch.setattr(walking, "MOST_LOOKED_AT", 40)
    monkeypatch.setattr(walking, "LARGEST_BATCH", 20)
    reading = await Reading.open(database)
    room = await reading.engine.new_room(visibility="world_readable")
    before = await reading.write(room.room_id, message(ALICE, "open"), visibility(ALICE, "joined"))
    await reading.engine.engine.write(
        room.room_id, lambda _: [message(ALICE, f"hidden {n}") for n in range(300)], users=(ALICE,)
    )
    await reading.engine.join(room.room_id, BOB)
    after = await reading.write(room.room_id, message(ALICE, "hello Bob"))
    first = await reading.page(BOB, room.room_id, limit=5)
    assert len(first["chunk"]) == 2
    assert "end" in first
    second = await reading.page(BOB, room.room_id, limit=5, start=first["end"])
    assert second["chunk"] == []
    assert second["end"] not in (None, first["end"])
    everything = await reading.walk(BOB, room.room_id, limit=5)
    assert everything[0] == after[0]
    assert everything[2:4] == before[::-1]
    assert len(await reading.walk(BOB, room.room_id, limit=5, backwards=False)) == len(everything)


async def test_the_last_backwards_page_has_no_end(database: Database) -> None:
    """Also when the limit falls on the very first event of the room."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    whole = len(await visible_to(reading, ALICE, room.room_id))
    assert "end" not in await reading.page(ALICE, room.room_id, limit=whole)
    assert "end" not in await reading.page(ALICE, room.room_id, limit=whole + 1)
    assert "end" in await reading.page(ALICE, room.room_id, limit=whole - 1)


async def test_start_repeats_the_token_given(database: Database) -> None:
    """And without one, `start` is a token from which one can page the other way."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    assert (await reading.page(ALICE, room.room_id, start="s1"))["start"] == "s1"
    answer = await reading.page(ALICE, room.room_id, limit=3)
    more = await reading.write(room.room_id, message(ALICE, "later"))
    following = await reading.page(ALICE, room.room_id, start=answer["start"], backwards=False)
    assert ids(following["chunk"]) == more


@pytest.mark.parametrize("token", ["", "x1", "s", "t1", "s-1", "t1_2_3", "s99999999999999999999"])
async def test_a_wrong_token_is_refused(database: Database, token: str) -> None:
    """M_INVALID_PARAM for what is none of ours."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    with pytest.raises((InvalidParam, TokenError)):
        await reading.page(ALICE, room.room_id, stop=token)


async def test_limits_are_clamped(database: Database) -> None:
    """Nought gives one event rather than a page without progress; without a limit it is ten."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.write(room.room_id, *(message(ALICE, str(n)) for n in range(12)))
    for limit, given_events in ((0, 1), (-3, 1), (None, 10), (10**9, 17)):
        assert len((await reading.page(ALICE, room.room_id, limit=limit))["chunk"]) == given_events


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"types": ["m.room.message"]}, ["bob", "picture", "alice"]),
    ({"types": ["m.*.message"], "not_senders": [ALICE]}, ["bob"]),
    ({"types": ["m.room.message"], "contains_url": True}, ["picture"]),
    ({"types": ["m.room.message"], "contains_url": False}, ["bob", "alice"]),
    ({"senders": [BOB], "not_types": ["m.room.member"]}, ["bob"]),
    ({"rooms": ["!elsewhere:localhost"]}, []),
    ({"types": []}, []),
]


@pytest.mark.parametrize(("source", "bodies"), FILTERS)
async def test_filters_choose_events(database: Database, source: dict[str, Any], bodies: list[str]) -> None:
    """Each field of a RoomEventFilter, applied before the limit."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.engine.join(room.room_id, BOB)
    picture = Draft("m.room.message", ALICE, {"body": "picture", "url": "mxc://localhost/a"})
    await reading.write(room.room_id, message(ALICE, "alice"), picture, message(BOB, "bob"))
    wish = RoomEventFilter.parse(source)
    answer = await reading.page(ALICE, room.room_id, wish=wish, limit=3)
    assert [event["content"]["body"] for event in answer["chunk"]] == bodies


async def test_ignored_users_messages_are_left_out_but_not_their_state(database: Database) -> None:
    """Client-server API, "Ignoring Users"."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.engine.join(room.room_id, BOB)
    await reading.write(room.room_id, message(BOB, "noise"), message(ALICE, "signal"))
    reading.world.ignoring[ALICE] = frozenset({BOB})
    answer = await reading.page(ALICE, room.room_id, limit=50)
    assert [event["type"] for event in answer["chunk"] if event["sender"] == BOB] == ["m.room.member"]


async def test_lazy_loading_names_senders_as_they_were(database: Database) -> None:
    """The members are those at the page's newest event, not today's."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.engine.join(room.room_id, CAROL)
    await reading.write(
        room.room_id, member(BOB, "join", displayname="Bobby"), message(BOB, "hello"), member(BOB, "leave")
    )
    everything = await reading.page(ALICE, room.room_id, limit=50)
    hello = next(i for i, event in enumerate(everything["chunk"]) if event["type"] == "m.room.message")
    left = everything["chunk"][hello - 1]
    depth = (await reading.engine.events.by_ids([left["event_id"]]))[left["event_id"]].depth
    wish = RoomEventFilter.parse({"types": ["m.room.message"], "lazy_load_members": True})
    answer = await reading.page(ALICE, room.room_id, wish=wish, start=str(PlaceToken(depth, 0)))
    assert [(e["state_key"], e["content"]) for e in answer["state"]] == [
        (BOB, {"membership": "join", "displayname": "Bobby"})
    ]
    wish = RoomEventFilter.parse({"lazy_load_members": True, "types": ["m.room.create"]})
    answer = await reading.page(CAROL, room.room_id, wish=wish)
    assert [(e["state_key"], e["content"]["membership"]) for e in answer["state"]] == []


async def test_who_never_was_in_the_room_gets_nothing(database: Database) -> None:
    """Invited and uninvited alike, in every direction."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(join_rule="invite")
    await reading.write(room.room_id, member(BOB, "invite", ALICE))
    for user in (BOB, CAROL):
        with pytest.raises(Forbidden):
            await reading.page(user, room.room_id)
    with pytest.raises(Forbidden):
        await reading.page(CAROL, "!nowhere:localhost")
