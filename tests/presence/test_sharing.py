# SPDX-License-Identifier: Apache-2.0
"""Who shares rooms with whom, however they come and go, and whom it takes to find them."""

from __future__ import annotations

from collections.abc import Iterator, Set
from random import Random

import pytest

from homeserver.presence import Board
from homeserver.presence.person import Choice, Names, Report, View
from homeserver.presence.sharing import JOINERS_KEPT, Sharing
from homeserver.stream.changes import Change


class Crowd(Set[str]):
    """Users who wait; counts how often somebody walks over all of them."""

    def __init__(self, users: Set[str]) -> None:
        self._users = users
        self.walks = 0

    def __contains__(self, user: object) -> bool:
        return user in self._users

    def __iter__(self) -> Iterator[str]:
        self.walks += 1
        return iter(self._users)

    def __len__(self) -> int:
        return len(self._users)


@pytest.mark.parametrize("seed", range(3))
def test_users_are_found_by_their_rooms(seed: int) -> None:
    """Against walking over all of them, while they join, leave, and are forgotten."""
    chance, sharing = Random(seed), Sharing()
    users = [f"u{number}" for number in range(40)]
    rooms: dict[str, set[int]] = {}
    for position in range(1, 300):
        user_id = chance.choice(users)
        if chance.random() < 0.2:
            sharing.untrack(user_id)
            rooms.pop(user_id, None)
        else:
            sharing.track(user_id)
            sharing.take()
            rooms[user_id] = set(chance.sample(range(30), chance.randrange(4)))
            sharing.loaded(user_id, dict.fromkeys(rooms[user_id], position))
        wanted = set(chance.sample(range(30), chance.randrange(1, 4)))
        waiting = set(chance.sample(users, chance.choice((2, 30))))
        found = sharing.among(waiting, wanted)
        assert found == {user for user in waiting if rooms.get(user, set()) & wanted}
    for user_id in users:
        sharing.untrack(user_id)
    assert (sharing._present, sharing._rooms) == ({}, {})


def test_who_is_in_a_room_that_was_put_in_place_is_looked_at_again() -> None:
    """By its notification the users of this server are known, by the room's members the others."""
    sharing = Sharing()
    users = ["@here:a", "@there:b", "@elsewhere:c"]
    for user in users:
        sharing.track(user)
    for user in sharing.take():
        sharing.loaded(user, {})
    sharing.changed(Change(before=5, count=1, rooms=(7,), users=("@here:a",), foreign=True, whole=True))
    assert (sharing.stale, sharing.outdated) == ({"@here:a"}, True)
    assert (sharing.take_placed(), sharing.outdated) == ([7], True)
    sharing.failed()
    assert sharing.take_placed() == [7]
    sharing.found(["@here:a", "@there:b", "@unknown:b"])
    assert sorted(sharing.take()) == ["@here:a", "@there:b"]
    for user in users[:2]:
        assert sharing.loaded(user, {7: 6})
    assert (sharing.shares("@here:a", "@there:b"), sharing.outdated) == (True, False)
    sharing.changed(Change(before=6, count=0, rooms=(7,), foreign=True, whole=True))
    assert sharing.take_placed() == [], "history moves nobody"


@pytest.mark.parametrize(
    "change",
    [
        Change(before=6, count=1, rooms=(7,), foreign=True, whole=True),
        Change(before=6, count=1, rooms=(7, 8), foreign=True, crowded=(7,)),
    ],
)
def test_who_left_a_room_unnamed_is_looked_at_again(change: Change) -> None:
    """Though they are not among its members any more; and so is whose rooms are read just then."""
    sharing = Sharing()
    for user_id, room in (("@left:b", 7), ("@elsewhere:c", 8), ("@coming:b", 9)):
        sharing.track(user_id)
        sharing.take()
        if room != 9:
            sharing.loaded(user_id, {room: 1})
    sharing.changed(change)
    assert sharing.take_placed() == [7]
    sharing.loaded("@coming:b", {7: 1})
    sharing.found([])
    assert sorted(sharing.take()) == ["@coming:b", "@left:b"]


def test_users_of_other_servers_who_moved_are_looked_at_again() -> None:
    """Of those who are about."""
    sharing = Sharing()
    for user_id in ("@here:a", "@there:b"):
        sharing.track(user_id)
    for user_id in sharing.take():
        sharing.loaded(user_id, {})
    sharing.changed(Change(before=5, count=1, rooms=(7,), foreign=True, remote=("@there:b", "@unknown:b")))
    assert sharing.take() == ["@there:b"]


def test_news_of_few_do_not_walk_over_all_who_wait() -> None:
    sharing = Sharing()
    for number in range(1000):
        sharing.track(f"u{number}")
        sharing.loaded(f"u{number}", {number // 2: 1, 5000: 1})
    waiting = Crowd({f"u{number}" for number in range(1000)})
    assert sharing.among(waiting, {7, 8, 6000}) == {"u14", "u15", "u16", "u17"}
    assert waiting.walks == 0
    assert len(sharing.among(waiting, {7, 5000})) == 1000
    assert waiting.walks == 1


def test_who_was_long_away_does_not_cost_a_walk_over_everybody() -> None:
    """Of whom joined a room before what is known of joins: all who share one are taken to have joined since."""
    sharing = Sharing()
    board = Board(sharing=sharing, is_ours=lambda _: True, now=lambda: 0)
    for number in range(2 * JOINERS_KEPT):
        person = board.person(f"u{number}")
        person.accept("p", Report(View("online", 0), Choice(), Names()))
        sharing.track(person.user_id)
        sharing.loaded(person.user_id, {number // 4: number + 1})
        board.publish(person, number + 1)
    looked_at: list[str] = []
    rooms = sharing.rooms
    sharing.rooms = lambda user_id: looked_at.append(user_id) or rooms(user_id)  # type: ignore[func-returns-value,method-assign]
    told = board.events("u9", 2 * JOINERS_KEPT, 0)
    assert {event["sender"] for event in told} == {"u8", "u9", "u10", "u11"}
    assert len(looked_at) < 10
