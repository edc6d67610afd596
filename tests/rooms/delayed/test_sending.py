# SPDX-License-Identifier: Apache-2.0
"""Delayed events are sent at their time, once, as their sender could send them then.

Delays are of hours, which the tests have pass by the database's clock: nothing becomes due before they say so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson
import pytest
from twisted.internet.task import deferLater

from homeserver.events.rendering import Reader, render
from homeserver.rooms.delayed.dispatch import Dispatch
from homeserver.rooms.delayed.events import DelayedDeparture, DelayedEvents, Limits
from homeserver.rooms.delayed.services import DelayedServices, build_delayed_services
from homeserver.rooms.engine import RoomHead, SendTransaction
from storage.database import Database
from storage.delayed_events import DelayedEventStore
from storage.users import UserStore
from tests.reactor import accept_leftovers, reactor, run
from tests.rooms.engine_fixture import ALICE, BOB
from tests.rooms.services_fixture import House, alice, bob

CALL = "org.matrix.msc3401.call.member"
KEY = f"_{BOB}_DEVICE_m.call"
JOINED = {"application": "m.call", "call_id": "", "expires": 14_400_000}
HOUR = 3_600_000


class Process:
    """One server process's rooms and delayed events."""

    def __init__(self, house: House, database: Database) -> None:
        self.house = house
        self.database = database
        self.store = DelayedEventStore(database)
        self.services: DelayedServices = build_delayed_services(
            reactor=reactor,
            store=self.store,
            gate=house.engine.gate,
            sending=house.rooms.sending,
            setting_state=house.rooms.setting_state,
            users=UserStore(database),
            limits=Limits(max_delay_ms=86_400_000, max_scheduled=100),
        )

    @property
    def events(self) -> DelayedEvents:
        return self.services.events

    @property
    def dispatch(self) -> Dispatch:
        rooms = self.house.rooms
        return Dispatch(
            sending=rooms.sending, setting_state=rooms.setting_state, users=UserStore(self.database)
        )

    async def message(self, room_id: str, body: str, delay_ms: int) -> str:
        return await self.events.schedule(bob, room_id, "m.room.message", {"body": body}, delay_ms=delay_ms)

    async def let_pass(self, milliseconds: int) -> None:
        """As if all had been scheduled by so much earlier; the timer looks."""
        await self.database.execute(
            "pass",
            "UPDATE delayed_events SET scheduled_ts = scheduled_ts - %s, due_ts = due_ts - %s"
            " WHERE finalised_ts IS NULL",
            (milliseconds, milliseconds),
        )
        self.services.timer.expect(0)

    async def bodies(self, room_id: str) -> list[str]:
        """What was said in the room, in order."""
        room = await self.house.room(room_id)
        stored = (await self.house.engine.events.timelines([(room.key, 0, 1 << 60)], 1000))[room.key]
        return [orjson.loads(each.pdu)["content"]["body"] for each in stored if each.type == "m.room.message"]

    async def state(self, room_id: str, event_type: str, state_key: str) -> Any:
        head: RoomHead = await self.house.head(room_id)
        entry = head.state_event(event_type, state_key)
        return None if entry is None else entry.event.content


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look until it holds."""
    for _ in range(2500):
        if await condition():
            return
        await deferLater(reactor, 0.02)
    raise AssertionError(f"never: {what}")


async def open_process(database: Database) -> Process:
    for user in (ALICE, BOB):
        await database.execute(
            "user",
            "INSERT INTO users (user_id, created_ts) VALUES (%s, 1) ON CONFLICT DO NOTHING",
            (user,),
        )
    return Process(await House.open(database), database)


@pytest.fixture
def process(database: Database) -> Iterator[Process]:
    """Its timer runs."""
    opened = run(open_process(database))
    opened.services.timer.start()
    accept_leftovers()
    yield opened
    run(opened.services.timer.stop())


async def test_each_is_sent_once_at_its_time(process: Process) -> None:
    """In the order of their times, whatever order they were scheduled in."""
    room_id = await process.house.public(bob)
    for hours in (3, 1, 4, 2):
        await process.message(room_id, f"{hours} h", hours * HOUR)
    now = await process.message(room_id, "now", 6 * HOUR)
    never = await process.message(room_id, "never", HOUR // 2)
    await process.events.cancel(never)
    await process.events.send(now)
    await process.message(room_id, "soon", 100)
    await until(lambda: _has(process, room_id, 2), "what is due by itself was said")
    assert await process.bodies(room_id) == ["now", "soon"]
    await process.let_pass(5 * HOUR)
    await until(lambda: _has(process, room_id, 6), "all were said")
    assert await process.bodies(room_id) == ["now", "soon", "1 h", "2 h", "3 h", "4 h"]
    await until(lambda: _is_done(process), "all are known to be said")  # which is written after the message
    became = await process.events.finalised(BOB)
    assert sorted((each.event_id is not None, each.by_action) for each in became) == [
        (False, True),
        *[(True, False)] * 5,
        (True, True),
    ]


async def _is_done(process: Process) -> bool:
    return await process.events.scheduled(BOB) == []


async def _has(process: Process, room_id: str, count: int) -> bool:
    return len(await process.bodies(room_id)) >= count


async def test_heartbeats_that_stop_end_the_membership(process: Process) -> None:
    """While the device restarts its delayed leaving it is in the call; when it falls silent it is out."""
    room_id = await process.house.public(bob)
    levels = await process.state(room_id, "m.room.power_levels", "")
    await process.house.rooms.setting_state.set_state(
        alice, room_id, "m.room.power_levels", "", {**levels, "events": {**levels["events"], CALL: 0}}
    )
    leave = await process.events.schedule(bob, room_id, CALL, {}, delay_ms=HOUR, state_key=KEY)
    await process.house.rooms.setting_state.set_state(bob, room_id, CALL, KEY, JOINED)
    for beat in range(1, 4):
        await process.let_pass(2 * HOUR // 3)
        # Were the leaving due, it would be sent before this.
        await process.message(room_id, "meanwhile", 1)
        await until(lambda beat=beat: _has(process, room_id, beat), "the timer looked")  # type: ignore[misc]
        assert await process.state(room_id, CALL, KEY) == JOINED
        await process.events.restart(leave)

    async def left() -> bool:
        return bool(await process.state(room_id, CALL, KEY) == {})

    await process.let_pass(HOUR)
    await until(left, "the membership ends")


async def test_the_rights_are_those_of_the_time_of_sending(process: Process) -> None:
    """Who left cannot send any more, and who got the power can, but not another's part in a call; locked and suspended
    users cannot.
    """
    room_id = await process.house.public(bob)
    other = await process.house.public(bob)
    named = await process.events.schedule(
        bob, room_id, "m.room.name", {"name": "Bob's"}, delay_ms=HOUR, state_key=""
    )
    said = await process.message(other, "from outside", HOUR)
    not_his = f"_{ALICE}_DEVICE_m.call"
    hung_up = await process.events.schedule(bob, room_id, CALL, {}, delay_ms=HOUR, state_key=not_his)
    levels = await process.state(room_id, "m.room.power_levels", "")
    await process.house.rooms.setting_state.set_state(
        alice,
        room_id,
        "m.room.power_levels",
        "",
        {**levels, "users": {**levels.get("users", {}), BOB: 50}},
    )
    await process.house.rooms.leaving.leave(bob, other)

    await process.let_pass(HOUR)

    async def done() -> bool:
        return len(await process.events.finalised(BOB)) == 3

    await until(done, "all were tried")
    assert await process.state(room_id, "m.room.name", "") == {"name": "Bob's"}
    assert (await process.events.get(BOB, named)).error is None
    for refused in (said, hung_up):
        error = (await process.events.get(BOB, refused)).error
        assert error is not None
        assert orjson.loads(error)["errcode"] == "M_FORBIDDEN"
    users = UserStore(process.database)
    for flag, code in (("locked", "M_USER_LOCKED"), ("suspended", "M_USER_SUSPENDED")):
        await users.set_flag(BOB, flag, True)  # type: ignore[arg-type]
        delay_id = await process.message(room_id, flag, 1)

        async def tried(delay_id: str = delay_id) -> bool:
            return (await process.events.get(BOB, delay_id)).finalised_ts is not None

        await until(tried, "it was tried")
        error = (await process.events.get(BOB, delay_id)).error
        assert error is not None
        assert orjson.loads(error)["errcode"] == code
        await users.set_flag(BOB, flag, False)  # type: ignore[arg-type]


async def test_a_crash_before_the_outcome_is_noted_sends_nothing_twice(database: Database) -> None:
    """Messages, redactions and state are sent again under the same transaction, and stand as they were."""
    process = await open_process(database)
    room_id = await process.house.public(bob)
    target = await process.house.rooms.sending.send(bob, room_id, "m.room.message", {"body": "oops"})
    scheduled: list[tuple[str, dict[str, Any], str | None]] = [
        ("m.room.message", {"body": "once"}, None),
        ("m.room.redaction", {"redacts": target}, None),
        ("m.x", {"n": 1}, "k"),
    ]
    levels = await process.state(room_id, "m.room.power_levels", "")
    await process.house.rooms.setting_state.set_state(
        alice, room_id, "m.room.power_levels", "", {**levels, "state_default": 0}
    )
    for event_type, content, state_key in scheduled:
        await process.events.schedule(bob, room_id, event_type, content, delay_ms=60_000, state_key=state_key)
    events = await process.events.scheduled(BOB)
    sent = [await process.dispatch.send(event, False) for event in events]
    # State that was changed again since is not changed back.
    await process.house.rooms.setting_state.set_state(bob, room_id, "m.x", "k", {"n": 2})
    before = (await process.house.head(room_id)).next_ordinal
    other = Process(await House.open(database), database)
    for again in (process, other):
        assert [await again.dispatch.send(event, False) for event in events] == sent
    assert (await other.house.head(room_id)).next_ordinal == before
    assert await other.state(room_id, "m.x", "k") == {"n": 2}


async def test_a_lease_of_a_process_that_died_lapses(database: Database) -> None:
    """What it had taken up is sent by the next; a membership it was changing is given up."""
    process = await open_process(database)
    room_id = await process.house.public(bob)
    delay_id = await process.message(room_id, "taken over", 1)
    left = await process.events.schedule(
        bob, room_id, "m.room.member", {"membership": "leave"}, delay_ms=1, state_key=BOB
    )

    async def claimed() -> bool:
        await process.store.claim(10)
        return all([(await process.events.get(BOB, each)).attempts for each in (delay_id, left)])

    await until(claimed, "both are leased")
    for refused in (process.events.restart, process.events.cancel):
        with pytest.raises(Exception, match="no such delayed event"):
            await refused(delay_id)
    await database.execute("lapse", "UPDATE delayed_events SET leased_until = 1")
    process.services.timer.start()
    await until(lambda: _has(process, room_id, 1), "it was said")

    async def given_up() -> bool:
        return (await process.events.get(BOB, left)).error is not None

    await until(given_up, "the membership is given up")
    await process.services.timer.stop()
    assert await process.bodies(room_id) == ["taken over"]
    assert (await process.house.head(room_id)).is_joined(BOB)


async def test_a_lost_lease_is_renewed_while_it_is_needed(database: Database) -> None:
    """Sending that takes longer than a lease is not taken over by another process."""
    process = await open_process(database)
    room_id = await process.house.public(bob)
    delay_id = await process.message(room_id, "slow", 60_000)
    assert await process.store.take(delay_id) is not None
    await database.execute("lapse", "UPDATE delayed_events SET leased_until = 1")
    await process.store.renew([delay_id])
    await database.execute("long", "UPDATE delayed_events SET leased_until = leased_until + %s", (HOUR,))
    assert await process.store.claim(10) == []
    assert await process.store.take(delay_id) is None
    await process.store.release(delay_id)
    assert (await process.events.scheduled(BOB))[0].attempts == 0


async def test_the_sender_alone_is_told_the_delay_id(process: Process) -> None:
    """`unsigned` has it for every device of the sender's, and for nobody else."""
    room_id = await process.house.public(bob)
    delay_id = await process.message(room_id, "later", 1)
    await until(lambda: _has(process, room_id, 1), "it was said")
    room = await process.house.room(room_id)
    stored = (await process.house.engine.events.timelines([(room.key, 0, 1 << 60)], 1))[room.key][0]
    entry = process.house.engine.gate.in_memory(room, stored)
    for user, device, shown in ((BOB, "PHONE", delay_id), (BOB, None, delay_id), (ALICE, "PHONE", None)):
        unsigned = orjson.loads(render(entry, Reader(user, device, 0), None))["unsigned"]
        assert unsigned.get("org.matrix.msc4140.delay_id") == shown
        assert "transaction_id" not in unsigned


async def test_an_account_takes_what_it_scheduled_with_it(process: Process) -> None:
    """Nothing is sent for a closed account, and its events are forgotten."""
    room_id = await process.house.public(bob)
    await process.message(room_id, "later", 60_000)
    await DelayedDeparture(process.store).depart(BOB, erase=False)
    assert await process.events.scheduled(BOB) == []


async def test_what_is_kept_of_the_past_is_bounded(database: Database) -> None:
    """The newest hundred of a user, for a week; a request that was forgotten may be made anew."""
    process = await open_process(database)
    room_id = await process.house.public(bob)
    transaction = SendTransaction(BOB, "DEVICE", "delay", "1")
    await database.execute(
        "past",
        """INSERT INTO delayed_events (delay_id, user_id, room_id, type, content, delay_ms, scheduled_ts, due_ts, since,
            finalised_ts) SELECT 'old' || n, %s, 'x', 'x', '{}', 1, 1, 1, 1, n FROM generate_series(1, 150) AS n""",
        (BOB,),
    )
    content: dict[str, Any] = {}
    await process.events.schedule(bob, room_id, "m.x", content, delay_ms=60_000, transaction=transaction)
    became = await process.events.finalised(BOB)
    assert [each.delay_id for each in became] == [f"old{n}" for n in range(150, 50, -1)]
    assert await process.store.sweep(7 * 86_400_000) == 100
    assert len(await process.events.scheduled(BOB)) == 1
