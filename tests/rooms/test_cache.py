# SPDX-License-Identifier: Apache-2.0
"""Rooms in memory while others write them: whoever reads a room finds everything the stream has shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence, Set

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.rooms.engine import Draft, RoomCache
from homeserver.rooms.engine.cache import MOST_TOLD
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.stream.changes import Change
from storage.database import Database
from storage.rooms import LoadedRoom, NewsOfRoom, RoomStore
from storage.stream import CommitResult, StreamBatch, StreamStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine, heard, member


class SlowStore(RoomStore):
    """Reads rooms, and lets something happen before what it read arrives."""

    def __init__(self, database: Database, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(database)
        self._meanwhile = meanwhile

    async def load(self, *, rooms: Sequence[int] = (), room_ids: Sequence[str] = ()) -> list[LoadedRoom]:
        loaded = await super().load(rooms=rooms, room_ids=room_ids)
        await self._meanwhile()
        return loaded


class HeldStore(RoomStore):
    """Tells what is new in rooms once `go` fires."""

    def __init__(self, database: Database, go: Deferred[None]) -> None:
        super().__init__(database)
        self._go = go

    async def since(self, wanted: Sequence[tuple[int, int]]) -> list[NewsOfRoom]:
        held: Deferred[None] = Deferred()
        self._go.chainDeferred(held)
        await held
        return await super().since(wanted)


class Woken:
    """Notes who is woken."""

    users: Set[str] = frozenset((ALICE, BOB))

    def __init__(self) -> None:
        self.woken: set[str] = set()

    def wake(self, users: Iterable[str]) -> None:
        self.woken.update(users)


async def test_a_room_that_is_being_loaded_again_is_not_shown_as_it_was(database: Database) -> None:
    """Between the news and the load's answer nobody gets the old head."""
    here, there = await Engine.open(database), await Engine.open(database)
    room = await here.new_room()
    await there.send(room.room_id, ALICE, "news")
    await heard(here, there)
    loading = Deferred.fromCoroutine(here.cache.get(room.room_id))
    assert here.cache.peek(room.room_id) is None
    assert here.cache.peek_key(room.key) is None
    await loading
    again = here.cache.peek(room.room_id)
    assert again is not None
    assert again.head.position == there.stream.position


async def test_what_is_written_while_a_room_is_loaded_is_not_missed(database: Database) -> None:
    """The load read the room before, the news came before its answer: the room is known to be out of date."""
    here, there = await Engine.open(database), await Engine.open(database)
    room = await there.new_room()
    await heard(here, there)

    async def news() -> None:
        await there.send(room.room_id, ALICE, "news")
        await heard(here, there)

    cache = RoomCache(SlowStore(database, news), MemberEvents(here.events, 1_000_000), 1_000_000)
    here.stream.subscribe(cache)
    old = await cache.get(room.room_id)
    assert old is not None
    assert old.head.position < here.stream.position
    assert cache.peek(room.room_id) is None


async def test_after_a_hole_in_the_news_every_room_is_loaded_again(database: Database) -> None:
    """Those in memory, and those that were on their way when it was found."""
    engine = await Engine.open(database)
    held, coming = await engine.new_room(), await engine.new_room()

    async def hole() -> None:
        engine.stream.missed(engine.stream.position)

    cache = RoomCache(SlowStore(database, hole), MemberEvents(engine.events, 1_000_000), 1_000_000)
    engine.stream.subscribe(cache)
    await cache.get(coming.room_id)
    assert cache.peek(coming.room_id) is None
    assert engine.cache.peek(held.room_id) is None
    assert await engine.cache.get(held.room_id) is held
    assert engine.cache.peek(held.room_id) is held


async def test_what_was_struck_before_it_was_heard_of_does_not_stay_in_memory(database: Database) -> None:
    """The room's load finds another process's redaction before that is told; a member event is in memory as it was."""
    there = await Engine.open(database)
    room = await there.new_room()
    ordinal = room.head.members[ALICE].ordinal
    (stored,) = await there.events.by_ordinals([(room.key, ordinal)])
    member_events = MemberEvents(there.events, 1_000_000)
    cache = RoomCache(RoomStore(database), member_events, 1_000_000)
    await member_events.load(room.key, room.room_id, room.head.version, [ordinal])
    await there.engine.write(
        room.room_id, lambda _head: [Draft("m.room.redaction", ALICE, {}, redacts=stored)], users=(ALICE,)
    )
    await cache.get(room.room_id)
    cache.changed(Change(there.stream.position - 1, 1, rooms=(room.key,), foreign=True))
    (entry,) = await member_events.load(room.key, room.room_id, room.head.version, [ordinal])
    assert entry.stored.redacted_by is not None


async def test_a_room_that_went_out_of_memory_while_it_was_loaded_is_up_to_date(database: Database) -> None:
    """What was suspected of it before was of the one that is no more: the new one need not be looked at each time."""
    here, there = await Engine.open(database), await Engine.open(database)
    room, other = await there.new_room(), await there.new_room()
    await heard(here, there)

    others = [other.room_id]

    async def evict() -> None:
        if cache.held(room.room_id) is not None and others:
            await cache.get(others.pop())

    cache = RoomCache(SlowStore(database, evict), MemberEvents(here.events, 1_000_000), budget=1)
    await cache.get(room.room_id)
    cache.changed(Change(here.stream.position, 0, foreign=True, unknown=True))
    again = await cache.get(room.room_id)
    assert again is not None
    assert cache.peek(room.room_id) is again


async def test_who_waits_for_a_room_that_another_reader_took_along_is_woken(database: Database) -> None:
    """It is read together with what they asked for, while those who are woken look at another room."""
    here, there = await Engine.open(database), await Engine.open(database)
    rooms = [await there.new_room(user) for user in (ALICE, BOB, CAROL)]
    await heard(here, there)
    go: Deferred[None] = Deferred()
    listening = Woken()
    cache = RoomCache(HeldStore(database, go), MemberEvents(here.events, 1_000_000), 1_000_000, listening)
    here.stream.subscribe(cache)
    await cache.get_many(keys=[room.key for room in rooms])
    for room, user in zip(rooms, (ALICE, BOB, CAROL), strict=True):
        await there.send(room.room_id, user, "news")
        await heard(here, there)
    asking = Deferred.fromCoroutine(cache.get(rooms[2].room_id))
    assert not listening.woken
    go.callback(None)
    await asking
    # The first room is read by itself, and its answer may come after that of the two others.
    while listening.woken != {ALICE, BOB}:
        await deferLater(reactor, 0)


class OvertakenStore(RoomStore):
    """Tells what is new in rooms, and lets something happen before that arrives."""

    def __init__(self, database: Database, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(database)
        self._meanwhile = meanwhile

    async def since(self, wanted: Sequence[tuple[int, int]]) -> list[NewsOfRoom]:
        news = await super().since(wanted)
        await self._meanwhile()
        return news


async def test_what_is_read_of_a_room_that_went_out_of_memory_is_not_kept(database: Database) -> None:
    """Of such a room nobody hears what is redacted meanwhile."""
    here, there = await Engine.open(database), await Engine.open(database)
    room, other = await there.new_room(), await there.new_room()
    member_events = MemberEvents(here.events, 1_000_000)

    async def evict_and_redact() -> None:
        await cache.get(other.room_id)
        (joined,) = await there.events.by_ordinals([(room.key, room.head.members[BOB].ordinal)])
        drafts = [Draft("m.room.redaction", BOB, {}, redacts=joined)]
        await there.engine.write(room.room_id, lambda _: drafts, users=(BOB,))
        await heard(here, there)

    cache = RoomCache(OvertakenStore(database, evict_and_redact), member_events, 1, here.stream.listeners)
    here.stream.subscribe(member_events)
    here.stream.subscribe(cache)
    await heard(here, there)
    await cache.get(room.room_id)
    join = [member(BOB, "join", displayname="secret")]
    await there.engine.write(room.room_id, lambda _: join, users=(BOB,))
    await heard(here, there)
    await cache.get(room.room_id)
    kept = member_events.peek(room.key, room.head.members[BOB].ordinal)
    assert kept is None or "secret" not in kept.stored.pdu


async def test_what_is_told_of_rooms_that_nobody_asks_for_is_weighed_and_takes_no_place_of_others(
    database: Database,
) -> None:
    """However often it is given up, as too much to be worth keeping."""
    here, there = (
        await Engine.open(database, budget=150_000, tells=True),
        await Engine.open(database, tells=True),
    )
    idle, used = await here.new_room(), await here.new_room()
    await heard(there, here)
    await there.cache.get(idle.room_id)
    for _ in range(MOST_TOLD + 2):
        await there.send(idle.room_id, ALICE, "x" * 500)
        await heard(here, there)
    assert len(idle.told) == 2
    assert here.cache.weight == idle.measure() + used.measure()
    assert here.cache.peek(idle.room_id) is None  # what is left of it does not go on from here
    assert here.cache.weight == idle.measure() + used.measure()
    assert here.cache.peek(used.room_id) is used
    for _ in range(MOST_TOLD):
        await there.send(idle.room_id, ALICE, "\N{PARTY POPPER}" * 1500)
        await heard(here, there)
    assert here.cache.held(idle.room_id) is None
    assert here.cache.peek(used.room_id) is used
    assert here.cache.weight == used.measure()


class LateAnswer(StreamStore):
    """Commits, and lets something happen before the answer arrives."""

    def __init__(self, database: Database, origin: str, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(database, origin)
        self._meanwhile = meanwhile

    async def commit(self, batch: StreamBatch) -> CommitResult:
        result = await super().commit(batch)
        await self._meanwhile()
        return result


async def test_what_is_written_to_a_new_room_before_its_creator_knows_of_it_is_not_missed(
    database: Database,
) -> None:
    """Another process' news may be heard before the answer to our own commit."""
    here, there = await Engine.open(database), await Engine.open(database)

    async def join() -> None:
        ((room_id,),) = await database.fetch("test", "SELECT room_id FROM rooms")
        await there.join(room_id, BOB)
        while here.stream._positions.newest < there.stream.position:
            await deferLater(reactor, 0)

    here.committer._store = LateAnswer(database, here.stream.origin, join)
    room = await here.new_room()
    assert here.stream.position == there.stream.position > room.head.position
    assert here.cache.peek(room.room_id) is None
    assert await here.cache.get(room.room_id) is room
    assert room.head.is_joined(BOB)
    assert room.recent[-1].stored.state_key == BOB
    assert here.cache._moved == {}


async def test_a_room_created_while_news_were_missed_is_looked_at_again(database: Database) -> None:
    """Once; and one that was created in peace never."""
    engine = await Engine.open(database)
    quiet = await engine.new_room()
    assert engine.cache.peek(quiet.room_id) is quiet
    store = engine.committer._store

    async def miss() -> None:
        engine.stream.missed(await StreamStore(database, "test").position())

    engine.committer._store = LateAnswer(database, engine.stream.origin, miss)
    room = await engine.new_room()
    engine.committer._store = store
    assert engine.cache.peek(room.room_id) is None
    assert await engine.cache.get(room.room_id) is room
    assert engine.cache.peek(room.room_id) is room
