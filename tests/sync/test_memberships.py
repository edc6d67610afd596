# SPDX-License-Identifier: Apache-2.0
"""Rooms coming and going: joins, invitations, knocks, leaves, bans, rejoins, and what of a room stays hidden."""

from __future__ import annotations

import orjson
import pytest

from homeserver.rooms.engine import Draft
from homeserver.sync.placement import Called, Joined, Left, needs_intervals, place
from storage.database import Database
from storage.memberships import Interval, Standing
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member
from tests.sync.sync_fixture import Process, filtered, topic, types


async def test_a_room_joined_between_syncs_comes_whole(database: Database) -> None:
    """Full state, the timeline reaching back before the join as far as it may be seen."""
    process = await Process.open(database)
    room = await process.engine.new_room(more=[topic("t")])
    await process.send(room.room_id, ALICE, "before")
    bob = process.client(BOB)
    await bob.sync()
    assert bob.last["rooms"]["join"] == {}
    await process.engine.join(room.room_id, BOB)
    await bob.sync()
    assert bob.bodies(room.room_id) == ["before"]
    assert bob.timeline(room.room_id)[-1]["state_key"] == BOB
    membership = {e["type"]: e["unsigned"]["membership"] for e in bob.timeline(room.room_id)}
    assert membership["m.room.message"] == "leave" and membership["m.room.member"] == "join"
    assert bob.room(room.room_id)["summary"]["m.joined_member_count"] == 2


@pytest.mark.parametrize(("visibility", "seen"), [("joined", []), ("invited", ["invited"])])
async def test_history_that_is_closed_is_not_shown_on_joining(
    database: Database, visibility: str, seen: list[str]
) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room(visibility=visibility)
    await process.send(room.room_id, ALICE, "closed")
    bob = process.client(BOB)
    await bob.sync()
    await process.write(room.room_id, member(BOB, "invite", ALICE))
    await process.send(room.room_id, ALICE, "invited")
    await process.write(room.room_id, topic("hidden as an event, yet the state"))
    await process.engine.join(room.room_id, BOB)
    await process.send(room.room_id, ALICE, "open")
    for first in (False, True):
        if first:
            bob.since = None
        await bob.sync()
        assert bob.bodies(room.room_id) == [*seen, "open"]
        shown = bob.shown(room.room_id)
        assert shown["m.room.topic", ""]["content"]["topic"].startswith("hidden")
        assert {ALICE, BOB} <= {key for type_, key in shown if type_ == "m.room.member"}


async def test_an_invitation_shows_the_room_stripped(database: Database) -> None:
    """Once; with the user's own member event last; not at all from who is ignored, nor to who wants none."""
    process = await Process.open(database)
    room = await process.engine.new_room(join_rule="invite")
    bob = process.client(BOB)
    await bob.sync()
    stripped = orjson.dumps(
        [{"type": "m.room.name", "state_key": "", "sender": ALICE, "content": {"name": "n"}}]
    )
    invite = Draft("m.room.member", ALICE, {"membership": "invite"}, BOB, stripped_state=stripped.decode())
    await process.write(room.room_id, invite)
    process.fakes.account_data.ignoring[BOB] = frozenset((ALICE,))
    since = bob.since
    await bob.sync()
    assert bob.last["rooms"]["invite"] == {} and not bob.has_news
    process.fakes.account_data.ignoring.clear()
    process.fakes.account_data.blocking.add(BOB)
    for bob.since in (since, None):
        await bob.sync()
        assert bob.last["rooms"]["invite"] == {}
    process.fakes.account_data.blocking.clear()
    bob.since = since
    await bob.sync()
    events = bob.room(room.room_id, "invite")["invite_state"]["events"]
    assert types(events) == ["m.room.name", "m.room.member"]
    assert events[-1] == {
        "type": "m.room.member",
        "state_key": BOB,
        "sender": ALICE,
        "content": {"membership": "invite"},
    }
    await bob.sync()
    assert not bob.has_news
    bob.since = None
    await bob.sync()
    assert bob.has(room.room_id, "invite")


async def test_a_refused_invitation_goes_away(database: Database) -> None:
    """The user sees their own leave, and nothing of the room they never were in."""
    process = await Process.open(database)
    room = await process.engine.new_room(join_rule="invite")
    await process.write(room.room_id, member(BOB, "invite", ALICE))
    bob = process.client(BOB)
    await bob.sync()
    await process.send(room.room_id, ALICE, "inside")
    await process.set_membership(room.room_id, BOB, "leave")
    await process.send(room.room_id, ALICE, "inside")
    await bob.sync()
    assert [(e["type"], e["state_key"]) for e in bob.timeline(room.room_id, "leave")] == [
        ("m.room.member", BOB)
    ]
    assert bob.state(room.room_id, "leave") == {}
    await bob.sync()
    assert not bob.has_news


async def test_a_knock_is_shown(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room(join_rule="knock")
    bob = process.client(BOB)
    await bob.sync()
    await process.set_membership(room.room_id, BOB, "knock")
    await bob.sync()
    assert types(bob.room(room.room_id, "knock")["knock_state"]["events"]) == ["m.room.member"]


@pytest.mark.parametrize(("membership", "sender"), [("leave", BOB), ("leave", ALICE), ("ban", ALICE)])
async def test_a_leave_is_the_last_thing_seen(database: Database, membership: str, sender: str) -> None:
    """Left, kicked or banned: the timeline goes up to it, never beyond."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    bob = process.client(BOB)
    await bob.sync()
    await process.send(room.room_id, ALICE, "seen")
    await process.write(room.room_id, topic("seen"))
    await process.set_membership(room.room_id, BOB, membership, sender)
    await process.send(room.room_id, ALICE, "unseen")
    await process.write(room.room_id, topic("unseen"))
    await bob.sync()
    timeline = bob.timeline(room.room_id, "leave")
    assert types(timeline) == ["m.room.message", "m.room.topic", "m.room.member"]
    assert timeline[-1]["content"]["membership"] == membership
    assert bob.state(room.room_id, "leave") == {} and not bob.has(room.room_id)
    assert b"unseen" not in orjson.dumps(bob.last)
    await bob.sync()
    assert not bob.has_news


async def test_the_state_of_a_left_room_is_that_of_then(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    bob = process.client(BOB, filter=filtered(timeline={"limit": 1}, include_leave=True))
    await bob.sync()
    await process.write(room.room_id, topic("then"))
    await process.engine.join(room.room_id, CAROL)
    await process.set_membership(room.room_id, BOB, "leave")
    await process.write(room.room_id, topic("now"))
    await bob.sync()
    assert bob.room(room.room_id, "leave")["timeline"]["limited"]
    delta = bob.state(room.room_id, "leave")
    assert delta["m.room.topic", ""]["content"] == {"topic": "then"}
    assert set(delta) == {("m.room.topic", ""), ("m.room.member", CAROL)}
    bob.since = None
    await bob.sync()
    whole = bob.state(room.room_id, "leave")
    assert whole["m.room.topic", ""]["content"] == {"topic": "then"}
    assert ("m.room.create", "") in whole and ("m.room.member", CAROL) in whole
    plain = process.client(BOB)
    await plain.sync()
    assert not plain.has(room.room_id, "leave")


async def test_a_stay_between_two_syncs_is_told_as_a_leave(database: Database) -> None:
    """Joined and gone again: everything of the stay, with its whole state."""
    process = await Process.open(database)
    room = await process.engine.new_room(visibility="joined", more=[topic("t")])
    bob = process.client(BOB)
    await bob.sync()
    await process.send(room.room_id, ALICE, "before")
    await process.engine.join(room.room_id, BOB)
    await process.send(room.room_id, ALICE, "during")
    await process.set_membership(room.room_id, BOB, "leave")
    await process.send(room.room_id, ALICE, "after")
    await bob.sync()
    assert bob.bodies(room.room_id, "leave") == ["during"]
    shown = bob.shown(room.room_id, "leave")
    assert shown["m.room.member", BOB]["content"]["membership"] == "leave"


async def test_a_rejoin_gives_the_state_anew_and_no_event_twice(database: Database) -> None:
    """Left and joined again between two syncs, or with a sync in between."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    await process.send(room.room_id, ALICE, "known")
    bob = process.client(BOB)
    await bob.sync()
    await process.send(room.room_id, ALICE, "news")
    await process.set_membership(room.room_id, BOB, "leave")
    await process.send(room.room_id, ALICE, "away")
    await process.engine.join(room.room_id, BOB)
    await bob.sync()
    assert bob.bodies(room.room_id) == ["news", "away"]
    assert ("m.room.create", "") in bob.state(room.room_id)
    await process.set_membership(room.room_id, BOB, "leave")
    await bob.sync()
    assert bob.has(room.room_id, "leave")
    await process.send(room.room_id, ALICE, "away again")
    await process.engine.join(room.room_id, BOB)
    await bob.sync()
    assert bob.bodies(room.room_id) == ["away again"]
    assert ("m.room.create", "") in bob.state(room.room_id)
    await bob.sync()
    assert not bob.has_news


async def test_banned_then_unbanned_is_told_without_history(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room(visibility="world_readable")
    await process.engine.join(room.room_id, BOB)
    await process.set_membership(room.room_id, BOB, "ban", ALICE)
    bob = process.client(BOB)
    await bob.sync()
    await process.send(room.room_id, ALICE, "open to the world")
    await process.set_membership(room.room_id, BOB, "leave", ALICE)
    await bob.sync()
    assert types(bob.timeline(room.room_id, "leave")) == ["m.room.member"]


async def test_a_forgotten_room_is_gone(database: Database) -> None:
    """Other devices still learn of the leave, without history; a rejoin starts anew."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    await process.send(room.room_id, ALICE, "known")
    late, bob = process.client(BOB, "LATE"), process.client(BOB, filter=filtered(include_leave=True))
    await late.sync()
    await process.send(room.room_id, ALICE, "unheard")
    await process.set_membership(room.room_id, BOB, "leave")
    await process.engine.committer.write("forgotten", [{"room": room.key, "user_id": BOB}], users=(BOB,))
    await late.sync()
    assert types(late.timeline(room.room_id, "leave")) == ["m.room.member"]
    await bob.sync()
    assert bob.last["rooms"]["leave"] == {} == bob.last["rooms"]["join"]
    await process.engine.join(room.room_id, BOB)
    await bob.sync()
    assert bob.bodies(room.room_id) == ["known", "unheard"]


async def test_ignored_users_messages_are_dropped_but_not_their_state(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB, CAROL)
    alice = process.client()
    await alice.sync()
    process.fakes.account_data.ignoring[ALICE] = frozenset((BOB,))
    await process.send(room.room_id, BOB, "noise")
    await alice.sync()
    assert not alice.has_news
    await process.send(room.room_id, BOB, "noise")
    await process.send(room.room_id, CAROL, "music")
    await process.set_membership(room.room_id, BOB, "leave")
    await alice.sync()
    assert alice.bodies(room.room_id) == ["music"]
    assert alice.timeline(room.room_id)[-1]["state_key"] == BOB
    alice.since = None
    await alice.sync()
    assert alice.bodies(room.room_id) == ["music"]


STANDING = Standing(1, "!r", "join", 5, 1, BOB, False, None)


def stay(membership: str, since: int, until: int | None, forgotten: bool = False) -> Interval:
    return Interval(membership, since, until, 1, BOB, forgotten)


@pytest.mark.parametrize(
    ("intervals", "since", "upto", "expected"),
    [
        ([stay("join", 5, None)], 5, 9, Joined(1, "!r", 5, False, 5)),
        ([stay("join", 5, None)], 4, 9, Joined(1, "!r", 5, True, 0)),
        ([stay("join", 5, None)], 2, 4, None),
        ([stay("join", 5, 8), stay("leave", 8, None)], 6, 7, Joined(1, "!r", 5, False, 6)),
        ([stay("join", 5, 8), stay("leave", 8, None)], 6, 8, Left(1, "!r", 8, 8, False, 6)),
        ([stay("join", 5, 8), stay("leave", 8, None)], 8, 9, None),
        ([stay("join", 5, 8), stay("leave", 8, None)], 3, 9, Left(1, "!r", 8, 8, True, 0)),
        (
            [stay("join", 2, 3), stay("leave", 3, 5), stay("join", 5, None)],
            4,
            9,
            Joined(1, "!r", 5, True, 3, True),
        ),
        ([stay("join", 2, 4), stay("leave", 4, 5), stay("join", 5, None)], 3, 9, Joined(1, "!r", 5, True, 3)),
        (
            [stay("join", 2, 3, True), stay("leave", 3, 5), stay("join", 5, None)],
            4,
            9,
            Joined(1, "!r", 5, True, 0),
        ),
        ([stay("invite", 2, 5), stay("leave", 5, None)], 3, 9, Left(1, "!r", 5, None, False, 3)),
        (
            [stay("join", 2, 5), stay("leave", 5, 6), stay("ban", 6, None)],
            3,
            9,
            Left(1, "!r", 6, 5, False, 3),
        ),
        (
            [stay("join", 2, 5), stay("ban", 5, 7), stay("leave", 7, None)],
            6,
            9,
            Left(1, "!r", 7, None, False, 6),
        ),
        ([stay("join", 2, 5, True), stay("leave", 5, None, True)], 3, 9, Left(1, "!r", 5, None, False, 3)),
        ([stay("invite", 5, None)], 4, 9, Called(1, "!r", "join", 1, BOB, "[]")),
        ([stay("invite", 4, 5), stay("join", 5, None)], 3, 4, None),
        ([stay("invite", 5, None)], 5, 9, None),
        ([], 1, 9, None),
    ],
)
def test_placement_follows_from_the_past(
    intervals: list[Interval], since: int, upto: int, expected: Joined | Left | Called | None
) -> None:
    """Each history of memberships against a window of the stream."""
    assert place(STANDING, intervals, since, upto) == expected


def test_the_past_is_asked_for_only_when_the_present_does_not_tell() -> None:
    assert not needs_intervals(STANDING, 5, 9)
    assert not needs_intervals(STANDING, 0, 9)
    assert needs_intervals(STANDING, 4, 9)
    assert needs_intervals(STANDING, 0, 4)
