# SPDX-License-Identifier: Apache-2.0
"""Responses made at once are those that are made from all there is, byte for byte: over random histories.

The client of `sync_fixture` compares them whenever it syncs; here is a lot to compare, of the kind that listeners get.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from twisted.internet.task import deferLater

from homeserver.rooms.engine import Room
from homeserver.stream.changes import Change
from homeserver.sync.moves import MOST_ROOMS, RoomMoves
from homeserver.unread.counts import Counts, UnreadCounts
from storage.database import Database
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member
from tests.sync.sync_fixture import Client, Process, filtered, topic

USERS = (ALICE, BOB, CAROL)
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"state": {"lazy_load_members": True}, "timeline": {"unread_thread_notifications": True}},
    {"timeline": {"limit": 2}},
    {"ephemeral": {"not_types": ["m.typing"]}},
    {"timeline": {"not_senders": [BOB]}},
    {"state": {"lazy_load_members": True, "include_redundant_members": True}},
)


class History:
    """Steps of chance in a few rooms of the same people."""

    def __init__(self, process: Process, rooms: list[Room], chance: Random) -> None:
        self._process = process
        self._rooms = rooms
        self._chance = chance
        self._count = 0
        self._steps: list[tuple[int, Callable[[Room, str], Awaitable[object]]]] = [
            (24, self._send),
            (4, self._send_as_device),
            (4, self._receipt),
            (3, self._typing),
            (3, self._unread),
            (2, self._keys),
            (1, self._presence),
            (1, self._state),
            (1, self._redaction),
            (1, self._membership),
            (1, self._ignore),
            (1, self._own),
        ]

    async def step(self) -> None:
        self._count += 1
        (_, step), *_ = self._chance.choices(self._steps, [weight for weight, _ in self._steps])
        await step(self._chance.choice(self._rooms), self._chance.choice(USERS[:2]))

    async def _send(self, room: Room, user: str) -> None:
        await self._process.send(room.room_id, user, *map(str, range(self._chance.randint(1, 3))))

    async def _send_as_device(self, room: Room, user: str) -> None:
        device = self._chance.choice(("0", "1", "ELSEWHERE"))
        await self._process.send_as_device(room.room_id, user, device, f"{self._count}")

    async def _receipt(self, room: Room, user: str) -> None:
        position = await self._process.touch()  # as a receipt does, and of nobody in particular
        self._process.fakes.receipts.told.append((position, room.key, {"$event": {"m.read": {user: {}}}}))

    async def _typing(self, room: Room, user: str) -> None:
        self._process.fakes.typing.set(room.key, user)

    async def _unread(self, room: Room, user: str) -> None:
        counts = Counts(self._chance.randint(1, 3), 1)
        threads = {"$root": Counts(1)} if self._chance.random() < 0.5 else {}
        self._process.fakes.unread.kept[user, room.key] = UnreadCounts(counts, Counts(1), threads)

    async def _presence(self, _room: Room, user: str) -> None:
        self._process.fakes.presence.set(user, "online")

    async def _keys(self, _room: Room, _user: str) -> None:
        self._process.fakes.keys.moved = await self._process.touch()

    async def _state(self, room: Room, _user: str) -> None:
        await self._process.write(room.room_id, topic(f"{self._count}"))

    async def _redaction(self, room: Room, user: str) -> None:
        sent = await self._process.send(room.room_id, user, "to be struck")
        await self._process.redact(room.room_id, user, sent[0])

    async def _membership(self, room: Room, _user: str) -> None:
        goes = room.head.is_joined(CAROL)
        await self._process.set_membership(room.room_id, CAROL, "leave" if goes else "join")

    async def _ignore(self, _room: Room, user: str) -> None:
        ignoring = self._process.fakes.account_data.ignoring
        ignoring[user] = frozenset(() if ignoring.get(user) else (BOB,))

    async def _own(self, _room: Room, user: str) -> None:
        await self._process.touch(user)


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_made_at_once_is_what_is_made_of_all(database: Database, seed: int) -> None:
    chance = Random(seed)
    process = await Process.open(database)
    rooms = [await process.engine.new_room() for _ in range(3)]
    for room in rooms:
        await process.write(room.room_id, member(BOB, "join"))
    clients = [
        process.client(USERS[number % 3], f"{number}", filter=filtered(**wanted))
        for number, wanted in enumerate(FILTERS * 2)
    ]
    clients.append(process.client(ALICE, "after", state_after="state_after"))
    history = History(process, rooms, chance)
    for client in clients:
        await client.sync()
    for _ in range(60):
        await history.step()
        for client in clients:
            if chance.random() < 0.8:
                await client.sync()
    shortened = [client.shortened for client in clients]
    assert sum(shortened) > 300
    assert sum(1 for count in shortened if count > 10) > len(clients) // 2


async def test_a_listener_of_a_message_is_answered_at_once(database: Database) -> None:
    """The usual case is what this is for: it must not slip out of it unnoticed."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.write(room.room_id, member(BOB, "join"))
    lazy = filtered(state={"lazy_load_members": True})
    listeners: list[Client] = [process.client(BOB), process.client(BOB, "LAZY", filter=lazy)]
    for listener in listeners:
        await listener.sync()
    await process.send(room.room_id, ALICE, "one")
    for listener in listeners:
        await listener.sync()
        await listener.sync()
    before = [listener.shortened for listener in listeners]
    await process.send(room.room_id, ALICE, "two", "three")
    for listener in listeners:
        assert (await listener.sync())["rooms"]["join"].keys() == {room.room_id}
        await listener.sync()
    assert [listener.shortened for listener in listeners] == [count + 2 for count in before]


async def test_standings_ahead_of_the_stream_do_not_count_yet(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who joins after a message does not get it, and who leaves after it does, though the database tells already."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.engine.new_room(visibility="joined")
    await process.engine.join(room.room_id, CAROL)
    bob, carol = process.client(BOB), process.client(CAROL)
    await bob.sync()
    await carol.sync()
    await process.send(room.room_id, ALICE, "before")
    held: list[Change] = []
    stream = process.engine.stream
    with monkeypatch.context() as unheard:
        unheard.setattr(stream, "announce", held.append)
        await other.set_membership(room.room_id, BOB, "join")
        await other.set_membership(room.room_id, CAROL, "leave")
        while len(held) < 2:
            await deferLater(reactor, 0)
        for user_id in (BOB, CAROL):
            process.engine.user_rooms.forget(user_id)
            await process.engine.user_rooms.of(user_id)
        await bob.sync()
        await carol.sync()
        assert not bob.has(room.room_id) and carol.bodies(room.room_id) == ["before"]
    for change in held:
        stream.announce(change)
    await bob.sync()
    await carol.sync()
    assert bob.bodies(room.room_id) == [] and carol.has(room.room_id, "leave")


def test_which_rooms_moved_is_remembered_as_far_as_there_is_room() -> None:
    moves = RoomMoves(10)
    assert moves.since(9) is None and moves.since(10) == ()
    moves.changed(Change(before=10, count=1, rooms=[1]))
    moves.changed(Change(before=12, count=1, rooms=[3]))
    moves.changed(Change(before=11, count=1, rooms=[2, 1], foreign=True))  # heard of late
    assert set(moves.since(10) or ()) == {1, 2, 3} and set(moves.since(11) or ()) == {1, 2, 3}
    assert moves.since(12) == (3,) and moves.since(13) == ()
    moves.changed(Change(before=13, count=1, rooms=range(100, 100 + MOST_ROOMS - 1)))
    assert moves.since(11) is None and len(moves.since(12) or ()) == MOST_ROOMS
    moves.changed(Change(before=21, count=1, rooms=[7]))
    moves.changed(Change(before=20, count=0, foreign=True, unknown=True))  # heard of late
    assert moves.since(19) is None and moves.since(20) == (7,)
