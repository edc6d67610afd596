# SPDX-License-Identifier: Apache-2.0
"""Waiting: what ends it, and that nothing is left of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from homeserver.errors import LimitExceeded
from homeserver.protocol.tokens import SyncToken
from homeserver.sync.foreign_wakes import ForeignWakes
from homeserver.sync.long_poll import LONGEST_WAIT, LongPoll
from homeserver.sync.request import SyncRequest, SyncResponse
from storage.database import Database
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, member
from tests.sync.sync_fixture import Process, filtered


class Ending:
    """A server that ends when told."""

    def __init__(self) -> None:
        self.fired = False
        self.subscribers: list[Callable[[], object]] = []

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        self.subscribers.append(callback)
        return lambda: self.subscribers.remove(callback)

    def fire(self) -> None:
        self.fired = True
        for callback in tuple(self.subscribers):
            callback()


@dataclass(slots=True)
class Waiting:
    """A process with a hand on its clock."""

    process: Process
    clock: Clock
    ending: Ending
    long_poll: LongPoll

    @classmethod
    async def open(cls, database: Database) -> Waiting:
        process, clock = await Process.open(database), Clock()
        stream = process.engine.stream
        stream.subscribe(ForeignWakes(process.engine.user_rooms, stream.listeners, process.engine.cache))
        return cls(process, clock, Ending(), LongPoll(process.sync, stream.listeners, clock))

    async def first(self, user: str = ALICE) -> SyncRequest:
        """A request that goes on from now."""
        response = await self.process.sync.sync(SyncRequest(user_id=user, device_id="D"))
        return SyncRequest(user_id=user, device_id="D", since=response.next_batch)

    def respond(self, request: SyncRequest, timeout: float = 30.0) -> Deferred[SyncResponse]:
        return Deferred.fromCoroutine(self.long_poll.respond(request, timeout, self.ending))

    async def settle(self, waiter: Deferred[SyncResponse]) -> SyncResponse:
        """Let time pass, but none by the clock, until the response is there."""
        while not waiter.called:
            self.clock.advance(0)
            turn: Deferred[None] = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn
        return await waiter

    def check_nothing_left(self) -> None:
        listeners = self.process.engine.stream.listeners
        assert len(listeners) == 0 and len(listeners.places) == 0
        assert self.clock.getDelayedCalls() == [] and self.ending.subscribers == []


def bodies(response: SyncResponse) -> list[str]:
    rooms = orjson.loads(response.body)["rooms"]["join"].values()
    return [
        e["content"]["body"] for room in rooms for e in room["timeline"]["events"] if "body" in e["content"]
    ]


async def test_a_message_ends_the_wait(database: Database) -> None:
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room()
    request = await waiting.first()
    waiter = waiting.respond(request)
    assert not waiter.called
    await waiting.process.send(room.room_id, ALICE, "news")
    assert bodies(await waiting.settle(waiter)) == ["news"]
    waiting.check_nothing_left()


async def test_many_listeners_are_worked_off_in_turns(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are told, and the reactor turns to others in between."""
    monkeypatch.setattr("homeserver.sync.long_poll.TURN", 2)
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room()
    request = await waiting.first()
    waiters = [waiting.respond(request) for _ in range(5)]
    told = []

    def meanwhile(response: SyncResponse) -> SyncResponse:
        waiting.clock.callLater(0, lambda: told.append(sum(waiter.called for waiter in waiters)))
        return response

    for waiter in waiters:
        waiter.addCallback(meanwhile)
    await waiting.process.send(room.room_id, ALICE, "news")
    assert [bodies(await waiting.settle(waiter)) for waiter in waiters] == [["news"]] * 5
    assert told[0] < 5
    waiting.check_nothing_left()


async def test_several_wake_ups_make_one_response(database: Database) -> None:
    """What a commit's waiters hear of comes after its sender was answered, and all at once."""
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room()
    waiter = waiting.respond(await waiting.first())
    await waiting.process.send(room.room_id, ALICE, "one", "two")
    assert not waiter.called
    assert bodies(await waiting.settle(waiter)) == ["one", "two"]


async def test_news_for_others_does_not_end_it(database: Database) -> None:
    """Nor does what the filter leaves out."""
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room()
    first = await waiting.first()
    request = SyncRequest(
        user_id=ALICE, device_id="D", since=first.since, filter=filtered(rooms=["!another:localhost"])
    )
    waiter = waiting.respond(request, 10)
    await waiting.process.send(room.room_id, ALICE, "unwanted")
    waiting.clock.advance(0)
    other = await waiting.process.engine.new_room(BOB)
    await waiting.process.send(other.room_id, BOB, "elsewhere")
    waiting.clock.advance(9)
    assert not waiter.called
    waiting.clock.advance(1)
    response = await waiting.settle(waiter)
    assert not response.has_news and response.next_batch.position == waiting.process.engine.stream.position
    waiting.check_nothing_left()


@pytest.mark.parametrize(("timeout", "waits"), [(5.0, 5.0), (10.0**6, LONGEST_WAIT)])
async def test_it_ends_in_time(database: Database, timeout: float, waits: float) -> None:
    waiting = await Waiting.open(database)
    await waiting.process.engine.new_room()
    waiter = waiting.respond(await waiting.first(), timeout)
    waiting.clock.advance(waits - 0.1)
    assert not waiter.called
    waiting.clock.advance(0.1)
    assert not (await waiter).has_news
    waiting.check_nothing_left()


async def test_what_is_there_already_is_not_waited_for(database: Database) -> None:
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room()
    request = await waiting.first()
    assert not (await waiting.respond(request, 0)).has_news
    everything = SyncRequest(user_id=ALICE, device_id="D", since=request.since, full_state=True)
    assert (await waiting.respond(everything)).has_news
    assert not (await waiting.respond(SyncRequest(user_id=BOB, device_id="D"))).has_news
    await waiting.process.send(room.room_id, ALICE, "there")
    assert bodies(await waiting.respond(request)) == ["there"]
    waiting.check_nothing_left()


async def test_an_aborted_wait_leaves_nothing_behind(database: Database) -> None:
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room()
    waiter = waiting.respond(await waiting.first())
    waiter.cancel()
    with pytest.raises(CancelledError):
        await waiter
    waiting.check_nothing_left()
    await waiting.process.send(room.room_id, ALICE, "to nobody")


async def test_an_ending_server_answers_at_once(database: Database) -> None:
    waiting = await Waiting.open(database)
    await waiting.process.engine.new_room()
    request = await waiting.first()
    waiter = waiting.respond(request)
    waiting.ending.fire()
    assert not (await waiting.settle(waiter)).has_news
    assert not (await waiting.respond(request)).has_news
    waiting.check_nothing_left()


async def test_a_message_from_a_process_that_holds_the_room_wakes_one_that_does_not(
    database: Database,
) -> None:
    """The room was never loaded here, so only its key is heard."""
    writer = await Process.open(database)
    room = await writer.engine.new_room()
    await writer.send(room.room_id, ALICE, "old")
    waiting = await Waiting.open(database)
    request = await waiting.first()
    waiting.process.engine.cache._by_id.clear()
    waiting.process.engine.cache._by_key.clear()
    waiter = waiting.respond(request)
    await writer.send(room.room_id, ALICE, "from afar")
    assert bodies(await waiting.settle(waiter)) == ["from afar"]
    waiting.check_nothing_left()


async def test_an_invitation_wakes_the_invited(database: Database) -> None:
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room(join_rule="invite")
    waiter = waiting.respond(await waiting.first(BOB))
    await waiting.process.write(room.room_id, member(BOB, "invite", ALICE))
    assert list(orjson.loads((await waiting.settle(waiter)).body)["rooms"]["invite"]) == [room.room_id]


def of_device(request: SyncRequest, device_id: str | None) -> SyncRequest:
    return SyncRequest(user_id=request.user_id, device_id=device_id, since=request.since)


async def test_one_user_cannot_wait_without_end(database: Database) -> None:
    """Beyond a hundred a wait is refused, whatever is answered without one is not, and nobody else is concerned."""
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room()
    await waiting.process.engine.join(room.room_id, BOB)
    await waiting.process.send(room.room_id, ALICE, "before")
    request, others = await waiting.first(), await waiting.first(BOB)
    waiters = [waiting.respond(of_device(request, f"D{number}")) for number in range(100)]
    late = of_device(request, "LATE")
    waiter = waiting.respond(late)
    assert waiter.called
    with pytest.raises(LimitExceeded) as refused:
        await waiter
    assert refused.value.retry_after_ms > 0
    assert not (await waiting.respond(late, 0)).has_news
    assert (await waiting.respond(SyncRequest(user_id=ALICE, device_id="NEW"))).has_news
    other = waiting.respond(others)
    waiting.process.engine.cache._by_id.clear()  # so that a look for news takes more than a moment
    waiting.process.engine.cache._by_key.clear()
    behind = waiting.respond(SyncRequest(user_id=ALICE, device_id="BEHIND", since=SyncToken(1)))
    assert not behind.called
    assert (await waiting.settle(behind)).has_news
    assert not other.called and not any(waiter.called for waiter in waiters)
    await waiting.process.send(room.room_id, ALICE, "news")
    assert [bodies(await waiting.settle(waiter)) for waiter in (*waiters, other)] == [["news"]] * 101
    waiting.check_nothing_left()


async def test_the_oldest_wait_of_a_device_is_answered_in_favour_of_the_newest(database: Database) -> None:
    """Its client has given it up and asks anew, and what stands between does not let go of it."""
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room()
    request = await waiting.first()
    waiters = [waiting.respond(of_device(request, "OTHER" if n < 50 else "D")) for n in range(100)]
    newest = waiting.respond(of_device(request, "D"))
    assert [n for n, waiter in enumerate(waiters) if waiter.called] == [50]
    assert not (await waiters[50]).has_news
    assert not newest.called
    await waiting.process.send(room.room_id, ALICE, "news")
    assert bodies(await waiting.settle(newest)) == ["news"]
    for waiter in waiters:
        await waiting.settle(waiter)
    waiting.check_nothing_left()


async def test_a_place_is_given_back_however_the_wait_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With news, in time, by the server's end, by the client's, and by a failure."""
    waiting = await Waiting.open(database)
    room = await waiting.process.engine.new_room()
    request = await waiting.first()
    places = waiting.process.engine.stream.listeners.places

    def begin() -> Deferred[SyncResponse]:
        waiter = waiting.respond(request)
        assert not waiter.called and len(places) == 1
        return waiter

    waiter = begin()
    await waiting.process.send(room.room_id, ALICE, "news")
    await waiting.settle(waiter)
    assert len(places) == 0
    request = await waiting.first()
    waiter = begin()
    waiting.clock.advance(31)
    assert waiter.called and len(places) == 0
    waiter = begin()
    waiter.cancel()
    with pytest.raises(CancelledError):
        await waiter
    assert len(places) == 0
    waiter = begin()
    monkeypatch.setattr(waiting.process.sync, "news", lambda *_: 1 / 0)
    monkeypatch.setattr(waiting.process.sync, "at_once", lambda *_: 1 / 0)
    waiting.process.engine.stream.listeners.wake([ALICE])
    with pytest.raises(ZeroDivisionError):
        await waiting.settle(waiter)
    monkeypatch.undo()
    waiter = begin()
    waiting.ending.fire()
    assert waiter.called
    waiting.check_nothing_left()
