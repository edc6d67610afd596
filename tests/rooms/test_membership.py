# SPDX-License-Identifier: Apache-2.0
"""Membership: who may do what to whom, in which words it is refused, and what stands afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred, gatherResults

from homeserver.errors import (
    BadJson,
    Forbidden,
    GuestAccessForbidden,
    InvalidParam,
    InviteBlocked,
    MatrixError,
    NotFound,
    Unknown,
    UserSuspended,
)
from homeserver.rooms.engine import Draft
from homeserver.rooms.remote import NoRemoteRooms
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL
from tests.rooms.services_fixture import House, User, alice, bob, carol

CODE = "org.matrix.msc3848.unstable.errcode"
DAN = "@dan:localhost"
dan = User(DAN)

# The memberships of the target in the matrix below; the actor's power is 100, 50 or 0, the target's 0 or 50.
STATES = ("none", "join", "invite", "knock", "leave", "ban")

OK = "ok"
MATRIX: dict[tuple[str, int], dict[str, str]] = {
    # (verb, the actor's power): {the target's membership: the outcome}
    ("invite", 100): dict.fromkeys(("none", "invite", "knock", "leave"), OK)
    | {"join": "ALREADY_JOINED", "ban": "banned"},
    ("invite", 0): dict.fromkeys(("none", "invite", "knock", "leave"), "INSUFFICIENT_POWER")
    | {"join": "ALREADY_JOINED", "ban": "banned"},
    ("kick", 100): dict.fromkeys(("join", "invite", "knock"), OK)
    | {"none": "NOT_JOINED", "leave": "NOT_JOINED", "ban": "M_BAD_STATE"},
    ("kick", 0): dict.fromkeys(("join", "invite", "knock"), "INSUFFICIENT_POWER")
    | {"none": "NOT_JOINED", "leave": "NOT_JOINED", "ban": "M_BAD_STATE"},
    ("ban", 100): dict.fromkeys(STATES, OK),
    ("ban", 0): dict.fromkeys(STATES, "INSUFFICIENT_POWER"),
    ("unban", 100): dict.fromkeys(STATES, "M_BAD_STATE") | {"ban": OK},
    ("unban", 0): dict.fromkeys(STATES, "M_BAD_STATE") | {"ban": "INSUFFICIENT_POWER"},
}
AFTER = {"invite": "invite", "kick": "leave", "ban": "ban", "unban": "leave"}


def outcome_of(error: MatrixError) -> str:
    """A refusal as the matrix names it."""
    code = error.fields.get(CODE)
    if isinstance(code, str):
        return code.rpartition(".")[2]
    return "banned" if "banned" in error.message and error.errcode == "M_FORBIDDEN" else error.errcode


async def bring(house: House, room_id: str, user: str, membership: str) -> None:
    """Give a user a membership, by the room's own rules."""
    steps = {
        "none": (),
        "join": (("invite", ALICE), ("join", user)),
        "invite": (("invite", ALICE),),
        "knock": (("knock", user),),
        "leave": (("invite", ALICE), ("leave", user)),
        "ban": (("ban", ALICE),),
    }
    for step, sender in steps[membership]:
        draft = Draft("m.room.member", sender, {"membership": step}, user)
        await house.engine.engine.write(room_id, lambda _head, draft=draft: [draft], users=(user, ALICE))  # type: ignore[misc]


@pytest.mark.parametrize(("verb", "power"), MATRIX)
async def test_permissions(database: Database, verb: str, power: int) -> None:
    """Every verb, with and without the power, on a user of every membership."""
    house = await House.open(database)
    room_id = await house.create(power_levels={"users": {BOB: power, CAROL: 0}, "invite": 50})
    await house.set(alice, room_id, "m.room.join_rules", {"join_rule": "knock"})
    await bring(house, room_id, BOB, "join")
    rooms = house.rooms
    do: Callable[[User, str, str], Awaitable[str]] = {
        "invite": rooms.inviting.invite,
        "kick": rooms.kicking.kick,
        "ban": rooms.banning.ban,
        "unban": rooms.unbanning.unban,
    }[verb]
    for membership, expected in MATRIX[verb, power].items():
        target = f"@{membership}:localhost"
        await bring(house, room_id, target, membership)
        try:
            await do(bob, room_id, target)
        except MatrixError as error:
            assert outcome_of(error) == expected, (membership, error)
            now = (await house.head(room_id)).membership(target)
            assert now == (None if membership == "none" else membership)
        else:
            assert expected == OK, membership
            assert (await house.head(room_id)).membership(target) == AFTER[verb]


@pytest.mark.parametrize("verb", ["kick", "ban", "unban", "invite"])
async def test_outsiders_do_nothing(database: Database, verb: str) -> None:
    """Whether the room exists or not, one who is not in it hears the same."""
    house = await House.open(database)
    room_id = await house.create()
    rooms = house.rooms
    do: Any = {
        "kick": rooms.kicking.kick,
        "ban": rooms.banning.ban,
        "unban": rooms.unbanning.unban,
        "invite": rooms.inviting.invite,
    }[verb]
    for each in (room_id, "!unknown:localhost"):
        with pytest.raises(Forbidden, match="not in room") as refused:
            await do(bob, each, CAROL)
        assert outcome_of(refused.value) == "NOT_JOINED"
    with pytest.raises(InvalidParam):
        await do(alice, room_id, "carol")


async def test_equals_cannot_remove_each_other(database: Database) -> None:
    """Kick and ban need more power than the target has."""
    house = await House.open(database)
    room_id = await house.create(preset="public_chat", power_levels={"users": {BOB: 50, CAROL: 50}})
    for user in (bob, carol):
        await house.rooms.joining.join(user, room_id)
    for do in (house.rooms.kicking.kick, house.rooms.banning.ban):
        with pytest.raises(Forbidden) as refused:
            await do(bob, room_id, CAROL)
        assert outcome_of(refused.value) == "INSUFFICIENT_POWER"


async def test_joining_carries_the_profile_and_the_reason_and_happens_once(database: Database) -> None:
    """A second join is the first one; a different content as state is a new event."""
    house = await House.open(database)
    house.world.profiles[BOB] = {"displayname": "Bob", "avatar_url": "mxc://localhost/b"}
    room_id = await house.public()
    first = await house.rooms.joining.join(bob, room_id, reason="tea")
    assert await house.rooms.joining.join(bob, room_id) == first
    expected = {
        "membership": "join",
        "displayname": "Bob",
        "avatar_url": "mxc://localhost/b",
        "reason": "tea",
    }
    assert await house.member_content(room_id, BOB) == expected
    nick = {"membership": "join", "displayname": "Robert"}
    second = await house.set(bob, room_id, "m.room.member", nick, BOB)
    assert second != first
    assert await house.set(bob, room_id, "m.room.member", nick, BOB) == second
    assert (await house.member_content(room_id, BOB))["displayname"] == "Robert"


@pytest.mark.parametrize(
    ("rule", "membership", "error"),
    [
        ("public", "none", None),
        ("public", "leave", None),
        ("public", "ban", Forbidden),
        ("invite", "none", Forbidden),
        ("invite", "leave", Forbidden),
        ("invite", "invite", None),
        ("knock", "knock", Forbidden),
        ("nonsense", "none", Forbidden),
    ],
)
async def test_join_rules(
    database: Database, rule: str, membership: str, error: type[MatrixError] | None
) -> None:
    """Who may join by which rule."""
    house = await House.open(database)
    room_id = await house.create()
    await bring_by_rule(house, room_id, membership)
    await house.set(alice, room_id, "m.room.join_rules", {"join_rule": rule})
    if error is None:
        await house.rooms.joining.join(bob, room_id)
        assert (await house.head(room_id)).is_joined(BOB)
    else:
        with pytest.raises(error):
            await house.rooms.joining.join(bob, room_id)


async def bring_by_rule(house: House, room_id: str, membership: str) -> None:
    """As `bring` for Bob, with knocking allowed meanwhile."""
    await house.set(alice, room_id, "m.room.join_rules", {"join_rule": "knock"})
    await bring(house, room_id, BOB, membership)


@pytest.mark.parametrize("version", ["8", "10", "12"])
async def test_restricted_rooms(database: Database, version: str) -> None:
    """Members of an allowed room join, vouched for by one who may invite; others do not."""
    house = await House.open(database)
    club = await house.public(bob)
    room_id = await house.create(version=version, power_levels={"invite": 50})
    allow = [{"type": "m.room_membership", "room_id": club}, {"type": "other"}, "junk"]
    await house.set(alice, room_id, "m.room.join_rules", {"join_rule": "restricted", "allow": allow})
    await house.rooms.joining.join(bob, room_id)
    assert (await house.member_content(room_id, BOB))["join_authorised_via_users_server"] == ALICE
    with pytest.raises(Forbidden, match="nor in any of the rooms"):
        await house.rooms.joining.join(carol, room_id)
    await house.rooms.inviting.invite(alice, room_id, CAROL)
    await house.rooms.joining.join(carol, room_id)
    assert "join_authorised_via_users_server" not in await house.member_content(room_id, CAROL)
    await house.propagation.propagate_profile(BOB, {"displayname": "B"})
    assert await house.member_content(room_id, BOB) == {"membership": "join", "displayname": "B"}


async def test_nobody_vouches_without_the_power(database: Database) -> None:
    """A restricted room whose members may not invite lets nobody in by its conditions."""
    house = await House.open(database)
    club = await house.public(bob)
    room_id = await house.create(version="11", power_levels={"users": {ALICE: 100}, "invite": 101})
    await house.set(
        alice,
        room_id,
        "m.room.join_rules",
        {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]},
    )
    with pytest.raises(Forbidden, match="Nobody on this server"):
        await house.rooms.joining.join(bob, room_id)


async def test_knocking(database: Database) -> None:
    """A knock is shown the room's stripped state, may be repeated, accepted by an invite, or withdrawn."""
    house = await House.open(database)
    room_id = await house.create(name="Tea")
    knock = house.rooms.knocking.knock
    with pytest.raises(Forbidden, match="does not let users knock"):
        await knock(bob, room_id)
    with pytest.raises(NotFound):
        await knock(bob, "!unknown:localhost")
    await house.set(alice, room_id, "m.room.join_rules", {"join_rule": "knock_restricted"})
    first = await knock(bob, room_id, reason="please")
    assert await knock(bob, room_id) == first
    standing = next(iter((await house.engine.user_rooms.of(BOB)).values()))
    assert standing.membership == "knock"
    types = {event["type"] for event in orjson.loads(standing.stripped_state or "")}
    assert {"m.room.create", "m.room.name", "m.room.join_rules"} <= types
    await house.rooms.inviting.invite(alice, room_id, BOB)
    with pytest.raises(Forbidden, match="invited"):
        await knock(bob, room_id)
    await house.rooms.joining.join(bob, room_id)
    with pytest.raises(Forbidden, match="is already in the room"):
        await knock(bob, room_id)
    await knock(carol, room_id)
    await house.rooms.leaving.leave(carol, room_id)
    assert (await house.head(room_id)).membership(CAROL) == "leave"


async def test_guests_come_in_only_where_they_may_and_leave_when_they_no_longer_may(
    database: Database,
) -> None:
    """`m.room.guest_access`, on joining and on being changed."""
    house = await House.open(database)
    room_id = await house.public(bob)
    guest = User(CAROL, is_guest=True)
    house.world.guests.add(CAROL)
    with pytest.raises(GuestAccessForbidden):
        await house.rooms.joining.join(guest, room_id)
    await house.set(alice, room_id, "m.room.guest_access", {"guest_access": "can_join"})
    await house.rooms.joining.join(guest, room_id)
    await house.set(alice, room_id, "m.room.guest_access", {"guest_access": "forbidden"})
    head = await house.head(room_id)
    assert head.membership(CAROL) == "leave"
    assert head.is_joined(BOB)


async def test_leaving_and_forgetting(database: Database) -> None:
    """A room is forgotten only once left; the other process knows it too; a new invite remembers it."""
    house, other = await House.open(database), await House.open(database)
    room_id = await house.public(bob)
    leave, forget = house.rooms.leaving.leave, house.rooms.forgetting.forget
    with pytest.raises(Unknown, match="is in room"):
        await forget(bob, room_id)
    with pytest.raises(NotFound):
        await forget(carol, room_id)
    left = await leave(bob, room_id, reason="bye")
    assert await leave(bob, room_id) == left
    assert await house.member_content(room_id, BOB) == {"membership": "leave", "reason": "bye"}
    assert not next(iter((await other.engine.user_rooms.of(BOB)).values())).forgotten
    listener = other.engine.stream.listen(BOB)
    await forget(bob, room_id)
    await forget(bob, room_id)
    while other.engine.stream.position < house.engine.stream.position:
        await listener.wait()
    listener.close()
    for each in (house, other):
        assert next(iter((await each.engine.user_rooms.of(BOB)).values())).forgotten
    await house.rooms.inviting.invite(alice, room_id, BOB)
    assert not next(iter((await house.engine.user_rooms.of(BOB)).values())).forgotten
    with pytest.raises(Forbidden, match="not in room"):
        await leave(carol, room_id)
    await house.rooms.banning.ban(alice, room_id, CAROL)
    with pytest.raises(Forbidden, match="banned"):
        await leave(carol, room_id)


async def test_suspended_users_only_leave(database: Database) -> None:
    """Client-server API, "Account suspension"."""
    house = await House.open(database)
    room_id, knockable = await house.public(bob), await house.create()
    await house.set(alice, knockable, "m.room.join_rules", {"join_rule": "knock"})
    suspended = User(BOB, is_suspended=True)
    rooms = house.rooms
    for doing in (
        rooms.joining.join(suspended, room_id),
        rooms.knocking.knock(suspended, knockable),
        rooms.inviting.invite(suspended, room_id, CAROL),
        rooms.kicking.kick(suspended, room_id, CAROL),
        rooms.banning.ban(suspended, room_id, CAROL),
        rooms.unbanning.unban(suspended, room_id, CAROL),
        house.set(suspended, room_id, "m.room.member", {"membership": "join"}, BOB),
    ):
        with pytest.raises(UserSuspended):
            await doing
    await rooms.leaving.leave(suspended, room_id)


async def test_blocked_and_unreachable_invites(database: Database) -> None:
    """Who takes no invites is not invited, by whichever endpoint; other servers cannot be reached."""
    house = await House.open(database)
    house.world.blocked.add(BOB)
    room_id = await house.create()
    with pytest.raises(InviteBlocked):
        await house.rooms.inviting.invite(alice, room_id, BOB)
    with pytest.raises(InviteBlocked):
        await house.set(alice, room_id, "m.room.member", {"membership": "invite"}, BOB)
    with pytest.raises(Unknown):
        await house.rooms.inviting.invite(alice, room_id, "@x:elsewhere.org")


async def test_member_events_sent_as_state_mean_the_verbs(database: Database) -> None:
    """Each membership, for oneself and for others, with the content's own keys kept."""
    house = await House.open(database)
    room_id = await house.public(bob)

    async def put(actor: User, target: str, membership: str, **more: Any) -> None:
        await house.set(actor, room_id, "m.room.member", {"membership": membership, **more}, target)

    await put(alice, CAROL, "invite", is_direct=True)
    assert await house.member_content(room_id, CAROL) == {"membership": "invite", "is_direct": True}
    await put(alice, BOB, "ban", reason="rude")
    assert (await house.head(room_id)).membership(BOB) == "ban"
    await put(alice, BOB, "leave")
    assert (await house.head(room_id)).membership(BOB) == "leave"
    await put(bob, BOB, "join")
    await put(alice, BOB, "leave")
    await put(bob, BOB, "join")
    await put(bob, BOB, "leave")
    for actor, target, membership, error in (
        (alice, BOB, "join", Forbidden),
        (alice, DAN, "knock", Forbidden),
        (alice, BOB, "lurk", BadJson),
        (alice, "bob", "invite", BadJson),
    ):
        with pytest.raises(error):
            await put(actor, target, membership)


async def test_changes_that_meet_in_one_batch_see_each_other(database: Database) -> None:
    """An invite by somebody whose own join, and change of name, is on its way in the same commit."""
    house = await House.open(database)
    room_id = await house.create(preset="public_chat", power_levels={"invite": 0})
    nick = {"membership": "join", "displayname": "Robert"}
    doing: list[Deferred[str]] = [
        Deferred.fromCoroutine(house.rooms.joining.join(bob, room_id)),
        Deferred.fromCoroutine(house.set(bob, room_id, "m.room.member", nick, BOB)),
        Deferred.fromCoroutine(house.rooms.joining.join(bob, room_id)),
    ]
    joined, renamed, again = await gatherResults(doing)
    assert joined != renamed == again
    more: list[Deferred[str]] = [
        Deferred.fromCoroutine(house.rooms.joining.join(dan, room_id)),
        Deferred.fromCoroutine(house.rooms.inviting.invite(dan, room_id, CAROL)),
    ]
    await gatherResults(more)
    standing = next(iter((await house.engine.user_rooms.of(CAROL)).values()))
    shown = orjson.loads(standing.stripped_state or "")
    assert [event["state_key"] for event in shown if event["type"] == "m.room.member"] == [DAN]


async def test_a_user_departs_from_every_room(database: Database) -> None:
    """Joined rooms, invites and knocks end, bans stay, over more rooms than are written at once."""
    house = await House.open(database)
    joined = [await house.public(bob) for _ in range(60)]
    invited = await house.create(invite=(BOB,))
    knocked = await house.create()
    await house.set(alice, knocked, "m.room.join_rules", {"join_rule": "knock"})
    await house.rooms.knocking.knock(bob, knocked)
    banned = await house.public(bob)
    await house.rooms.banning.ban(alice, banned, BOB)
    fresh = await House.open(database)
    await fresh.departure.leave_all(BOB)
    await fresh.departure.depart(BOB, erase=True)
    for room_id in (*joined, invited, knocked):
        assert (await fresh.head(room_id)).membership(BOB) == "leave"
    assert (await fresh.head(banned)).membership(BOB) == "ban"


async def test_a_profile_reaches_every_joined_room(database: Database) -> None:
    """The changed keys only; other keys of the member event stay, unchanged rooms get no event."""
    house = await House.open(database)
    house.world.profiles[BOB] = {"displayname": "Bob", "avatar_url": "mxc://localhost/b"}
    rooms = [await house.public(bob) for _ in range(3)]
    await house.set(
        bob, rooms[0], "m.room.member", {"membership": "join", "displayname": "Robert", "x": 1}, BOB
    )
    left = rooms.pop()
    await house.rooms.leaving.leave(bob, left)
    fresh = await House.open(database)
    await fresh.propagation.propagate_profile(BOB, {"displayname": "Robert", "avatar_url": None})
    assert await fresh.member_content(rooms[0], BOB) == {
        "membership": "join",
        "displayname": "Robert",
        "x": 1,
    }
    assert await fresh.member_content(rooms[1], BOB) == {"membership": "join", "displayname": "Robert"}
    assert await fresh.member_content(left, BOB) == {"membership": "leave"}
    heads = [(await fresh.head(room_id)).head for room_id in rooms]
    await fresh.propagation.propagate_profile(BOB, {"displayname": "Robert", "avatar_url": None})
    assert [(await fresh.head(room_id)).head for room_id in rooms] == heads


async def test_a_name_changed_during_a_join_by_another_server_is_shown(database: Database) -> None:
    """When it changed the room was none of the user's, so the change did not reach it. What did not change stays."""

    class Slow(NoRemoteRooms):
        async def join(  # type: ignore[override]
            self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
        ) -> str | None:
            house.world.profiles[BOB] = {"displayname": "Robert"}
            draft = Draft("m.room.member", user_id, content, user_id)
            return (
                await house.engine.engine.write(room_id, lambda _head: [draft], users=(user_id,))
            ).event_id

    house = await House.open(database, remote=Slow())
    house.world.profiles[BOB] = {"displayname": "Bob", "avatar_url": "mxc://localhost/b"}
    room_id = await house.public()
    await house.rooms.leaving.leave(alice, room_id)  # nobody of this server is in it any more
    await house.rooms.joining.join(bob, room_id, extra={"x": 1})
    content = {"membership": "join", "displayname": "Robert", "x": 1}
    assert await house.member_content(room_id, BOB) == content
