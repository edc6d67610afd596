# SPDX-License-Identifier: Apache-2.0
"""Receipts on a real Postgres: who may send them, that they only move on, and who learns of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.account_data import AccountData, UserDataCache
from homeserver.errors import Forbidden, InvalidParam, NotFound
from homeserver.receipts import Receipts, RecentReceipts
from homeserver.receipts.service import Kind, Marks
from homeserver.rooms.engine import Draft, Room
from homeserver.rooms.engine.head import concerned
from storage.account_data import AccountDataStore
from storage.database import Database
from storage.receipts import Receipt, ReceiptStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine, member, message


@dataclass
class Elsewhere:
    """What other servers are told."""

    told: list[Receipt] = field(default_factory=list)

    def receipts(self, _room: Room, receipts: Sequence[Receipt]) -> None:
        self.told.extend(receipts)


@dataclass(frozen=True, slots=True)
class Process:
    """One process with receipts."""

    engine: Engine
    receipts: Receipts
    account_data: AccountData
    elsewhere: Elsewhere

    @classmethod
    async def open(cls, database: Database) -> Process:
        engine = await Engine.open(database)
        stream = engine.stream

        def readers(key: int) -> list[str]:
            room = engine.cache.peek_key(key)
            return (
                list(stream.listeners.users) if room is None else concerned(room.head, stream.listeners.users)
            )

        recent = RecentReceipts(stream.position, readers)
        await database.listen("receipts", recent.heard)
        user_data = UserDataCache()
        stream.subscribe(recent)
        stream.subscribe(user_data)
        account_data = AccountData(
            store=AccountDataStore(database),
            committer=engine.committer,
            moved=stream.users,
            user_rooms=engine.user_rooms,
            cache=user_data,
        )
        ticks, elsewhere = count(1000), Elsewhere()
        receipts = Receipts(
            store=ReceiptStore(database),
            recent=recent,
            committer=engine.committer,
            gate=engine.gate,
            events=engine.events,
            account_data=account_data,
            readers=readers,
            elsewhere=elsewhere,
            now=lambda: next(ticks),
        )
        return cls(engine, receipts, account_data, elsewhere)

    async def room_of_two(self) -> Room:
        room = await self.engine.new_room()
        await self.engine.join(room.room_id, BOB)
        return room

    async def seen_by(self, user_id: str, room: Room, since: int = 0) -> dict[str, Any]:
        """The m.receipt a sync since then gives the user."""
        changed = await self.receipts.changed(user_id, [room.key], since, self.engine.stream.position)
        return changed.get(room.key, {})


async def test_a_receipt_moves_on_and_never_back(database: Database) -> None:
    """Sending receipts out of order leaves the furthest; what does not move on tells nobody anything."""
    process = await Process.open(database)
    room = await process.room_of_two()
    events = [await process.engine.send(room.room_id, ALICE, str(n)) for n in range(3)]
    before = process.engine.stream.position
    await process.receipts.send(BOB, room.room_id, "m.read", events[1])
    assert await process.seen_by(ALICE, room, before) == {events[1]: {"m.read": {BOB: {"ts": 1000}}}}
    at = process.engine.stream.position
    for event_id in (events[0], events[1]):
        await process.receipts.send(BOB, room.room_id, "m.read", event_id)
    assert process.engine.stream.position == at
    await process.receipts.send(BOB, room.room_id, "m.read", events[2])
    assert list(await process.seen_by(ALICE, room)) == [events[2]]
    assert list(await process.seen_by(ALICE, room, before)) == [events[1], events[2]]


async def test_simultaneous_receipts_leave_the_furthest(database: Database) -> None:
    """Two devices at once, in one commit: memory and database agree on the furthest."""
    process = await Process.open(database)
    room = await process.room_of_two()
    events = [await process.engine.send(room.room_id, ALICE, str(n)) for n in range(2)]
    before = process.engine.stream.position
    sends = [
        Deferred.fromCoroutine(process.receipts.send(BOB, room.room_id, "m.read", event_id))
        for event_id in reversed(events)
    ]
    for send in sends:
        await send
    assert list(await process.seen_by(ALICE, room)) == [events[1]]
    assert list(await process.seen_by(ALICE, room, before)) == [events[1]]


async def test_a_private_receipt_stays_with_its_user(database: Database) -> None:
    """Neither from memory nor from the database, live or at an initial sync, does another user see it; nor is woken."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.room_of_two()
    event_id = await process.engine.send(room.room_id, ALICE, "hello")
    before = process.engine.stream.position
    alice, bob = process.engine.stream.listen(ALICE), process.engine.stream.listen(BOB)
    woken: list[str] = []
    alice.wait().addCallback(lambda _: woken.append(ALICE))
    bob.wait().addCallback(lambda _: woken.append(BOB))
    await process.receipts.send(BOB, room.room_id, "m.read.private", event_id)
    assert woken == [BOB]
    own = {event_id: {"m.read.private": {BOB: {"ts": 1000}}}}
    await until(other, process.engine.stream.position)
    for each in (process, other):
        for since in (0, before):
            assert await each.seen_by(ALICE, room, since) == {}
            assert await each.seen_by(BOB, room, since) == own


async def test_a_receipt_reaches_the_readers_of_another_process(
    database: Database, database_url: str
) -> None:
    """Who waits at another process is woken by the receipt and finds it."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.room_of_two()
    event_id = await process.engine.send(room.room_id, ALICE, "hello")
    assert await other.engine.cache.get(room.room_id) is not None
    await until(other, process.engine.stream.position)
    before = other.engine.stream.position
    listener = other.engine.stream.listen(ALICE)
    woken = listener.wait()
    await process.receipts.send(BOB, room.room_id, "m.read", event_id)
    await woken
    assert list(await other.seen_by(ALICE, room, before)) == [event_id]


async def until(process: Process, position: int) -> None:
    """Let the reactor turn until a process shows a position."""
    while process.engine.stream.position < position:
        await deferLater(reactor, 0)


@pytest.mark.parametrize("kind", ["m.read", "m.read.private", "m.fully_read"])
async def test_only_who_sees_an_event_sends_receipts_for_it(database: Database, kind: Kind) -> None:
    """Strangers, members who came too late, events of other rooms and events that are none are all refused."""
    process = await Process.open(database)
    room = await process.engine.new_room(visibility="joined")
    elsewhere = await process.engine.new_room()
    early = await process.engine.send(room.room_id, ALICE, "before Bob came")
    await process.engine.join(room.room_id, BOB)
    foreign = await process.engine.send(elsewhere.room_id, ALICE, "another room's")
    with pytest.raises(Forbidden):
        await process.receipts.send(CAROL, room.room_id, kind, early)
    for event_id in (early, foreign, "$none"):
        with pytest.raises(NotFound):
            await process.receipts.send(BOB, room.room_id, kind, event_id)
    await process.engine.engine.write(room.room_id, lambda _: [member(BOB, "leave")], users=(BOB,))
    with pytest.raises(Forbidden):
        await process.receipts.send(BOB, room.room_id, kind, early)
    assert await process.seen_by(ALICE, room) == {}


def relating(rel_type: str, event_id: str) -> Draft:
    relation = {"rel_type": rel_type, "event_id": event_id}
    return Draft("m.room.message", ALICE, {"body": "related", "m.relates_to": relation})


async def test_threads(database: Database) -> None:
    """A receipt's thread must be one its event is in; unthreaded and threaded ones are kept apart."""
    process = await Process.open(database)
    room = await process.room_of_two()

    async def write(draft: Draft) -> str:
        written = await process.engine.engine.write(room.room_id, lambda _: [draft], users=(ALICE,))
        return written.event_id

    plain = await write(message(ALICE, "root"))
    reply = await write(relating("m.thread", plain))
    edit_of_reply = await write(relating("m.replace", reply))
    reaction_to_root = await write(relating("m.annotation", plain))
    other = await write(message(ALICE, "other"))

    allowed = {plain: {"main", plain}, reply: {plain}, edit_of_reply: {plain}}
    allowed |= {reaction_to_root: {"main", plain}, other: {"main", other}}
    for event_id, threads in allowed.items():
        for thread in ("main", plain, other, "$unknown"):
            if thread in threads:
                await process.receipts.send(BOB, room.room_id, "m.read", event_id, thread)
            else:
                with pytest.raises(InvalidParam):
                    await process.receipts.send(BOB, room.room_id, "m.read", event_id, thread)
    for thread in ("", "\0", "$" + "x" * 300):
        with pytest.raises(InvalidParam):
            await process.receipts.send(BOB, room.room_id, "m.read", plain, thread)
    with pytest.raises(InvalidParam):
        await process.receipts.send(BOB, room.room_id, "m.fully_read", plain, "main")
    await process.receipts.send(BOB, room.room_id, "m.read", reply)
    seen = await process.seen_by(ALICE, room)
    assert seen[reply]["m.read"][BOB].keys() == {"ts"}
    assert seen[reaction_to_root]["m.read"][BOB]["thread_id"] == plain
    assert seen[other]["m.read"][BOB]["thread_id"] in {"main", other}


async def test_markers_are_set_together(database: Database) -> None:
    """`/read_markers` moves receipts and the marker, which is account data and never moves back either."""
    process = await Process.open(database)
    room = await process.room_of_two()
    first, second = [await process.engine.send(room.room_id, ALICE, str(n)) for n in range(2)]
    await process.receipts.mark(BOB, room.room_id, Marks(read=first, private=second, fully_read=second))
    assert set(await process.seen_by(BOB, room)) == {first, second}
    assert set(await process.seen_by(ALICE, room)) == {first}
    await process.receipts.mark(BOB, room.room_id, Marks(fully_read=first))
    assert await process.account_data.get(BOB, "m.fully_read", room.key) == {"event_id": second}
    with pytest.raises(NotFound):
        await process.receipts.mark(BOB, room.room_id, Marks(read=second, fully_read="$none"))
    assert set(await process.seen_by(ALICE, room)) == {first}


async def test_a_live_receipt_costs_its_readers_no_query(database: Database) -> None:
    """Once it landed, any number of syncs show it from memory; so do syncs without news of receipts."""
    process = await Process.open(database)
    room = await process.room_of_two()
    event_id = await process.engine.send(room.room_id, ALICE, "hello")
    before = process.engine.stream.position
    await process.receipts.send(BOB, room.room_id, "m.read", event_id)
    await database.close()
    assert list(await process.seen_by(ALICE, room, before)) == [event_id]
    assert await process.seen_by(ALICE, room, process.engine.stream.position) == {}


async def test_other_servers_are_told_of_public_receipts_that_move_on(database: Database) -> None:
    """Of private ones never, of what changes nothing neither."""
    process = await Process.open(database)
    room = await process.room_of_two()
    events = [await process.engine.send(room.room_id, ALICE, str(n)) for n in range(2)]
    await process.receipts.send(BOB, room.room_id, "m.read.private", events[1])
    await process.receipts.send(BOB, room.room_id, "m.read", events[1])
    await process.receipts.send(BOB, room.room_id, "m.read", events[0])
    await process.receipts.mark(ALICE, room.room_id, Marks(private=events[0], fully_read=events[0]))
    await process.receipts.send(ALICE, room.room_id, "m.read", events[1], "main")
    assert [(each.user_id, each.event_id, each.thread, each.private) for each in process.elsewhere.told] == [
        (BOB, events[1], "", False),
        (ALICE, events[1], "main", False),
    ]


@pytest.mark.parametrize("marked", [False, True])
async def test_two_devices_move_the_marker_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    """At two processes: it does not go back, whichever of them writes last."""
    slow, quick = await Process.open(database), await Process.open(database)
    room = await slow.room_of_two()
    events = [await slow.engine.send(room.room_id, ALICE, str(n)) for n in range(3)]
    if marked:
        await slow.receipts.send(BOB, room.room_id, "m.fully_read", events[0])
    write, arrived, go_on = slow.engine.committer.write, Deferred[None](), Deferred[None]()

    def late(*args: Any, **options: Any) -> Deferred[int]:
        monkeypatch.undo()
        arrived.callback(None)
        done: Deferred[int] = Deferred()
        go_on.addCallback(lambda _: write(*args, **options).chainDeferred(done))
        return done

    monkeypatch.setattr(slow.engine.committer, "write", late)
    older = Deferred.fromCoroutine(slow.receipts.send(BOB, room.room_id, "m.fully_read", events[1]))
    await arrived
    await quick.receipts.send(BOB, room.room_id, "m.fully_read", events[2])
    go_on.callback(None)
    await older
    fresh = await Process.open(database)
    assert await fresh.account_data.get(BOB, "m.fully_read", room.key) == {"event_id": events[2]}
