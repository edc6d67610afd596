# SPDX-License-Identifier: Apache-2.0
"""Transactions: their limits, their one answer, and that nobody's events or EDUs are in anybody's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2.errors
import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from federation.inbound.assembly import FORGET_AFTER
from federation.inbound.edus import EduDispatcher
from homeserver.errors import BadJson, Forbidden, LimitExceeded
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.intake.incoming import Incoming
from storage.database import ConnectionLost, Database, DatabaseUnavailable, LockTimeout, StatementTimeout
from storage.inbound_transactions import InboundTransactionStore
from tests.federation.inbound.transacting import EVIL, HYDRA, OTHER, ROOM, event, inbound, send
from tests.federation.servers import RemoteServer
from tests.reactor import reactor


async def test_good_events_are_in_their_rooms_when_the_answer_comes(database: Database) -> None:
    """Each gets an empty result."""
    made = inbound(database)
    events = [event("a"), event("b", room_id=OTHER)]
    assert await send(made, *events) == {each.event_id: {} for each in events}
    assert {each.event_id for each in events} <= set(made.intake.flags)


async def test_a_rejected_event_is_no_error(database: Database) -> None:
    """Nor one that was there before (server-server API, "Rejection")."""
    made = inbound(database)
    rejected, known = event("a"), event("b")
    made.intake.reject.add(rejected.event_id)
    made.intake.put(known)
    assert await send(made, rejected, known) == {rejected.event_id: {}, known.event_id: {}}


async def test_each_broken_event_is_an_error_of_its_own(database: Database) -> None:
    """And none of the others'."""
    made = inbound(database)
    good, forged = event("a"), event("b", by=EVIL, sender=HYDRA.user())
    broken = {**event("c").pdu, "type": 5}
    nowhere = [{**event("d").pdu, "room_id": room_id} for room_id in (None, 5, "x" * 256, "!a\0:b")]
    results = await send(made, good, forged, broken, *nowhere, {}, {"room_id": ROOM})
    assert results.pop(good.event_id) == {}
    assert set(results.pop(forged.event_id)) == {"error"}
    assert all(set(result) == {"error"} for result in results.values())


async def test_fifty_events_and_a_hundred_edus_are_the_most(database: Database) -> None:
    """One more is refused as a whole, before anything of it is looked at."""
    heard: list[str] = []

    async def hear(origin: str, content: Mapping[str, Any]) -> None:
        heard.append(origin)

    made = inbound(database, handlers={"m.x": hear})
    edu = {"edu_type": "m.x", "content": {"a": 1}}
    events = [event(str(number)) for number in range(51)]
    with pytest.raises(BadJson):
        await send(made, *events)
    with pytest.raises(BadJson):
        await send(made, edus=[edu] * 101)
    assert (made.intake.received, heard) == ([], [])
    assert len(await send(made, *events[:50], edus=[edu] * 100)) == 50
    assert len(heard) == 100


@pytest.mark.parametrize("origin", ["evil.test", "", None, 5])
async def test_the_origin_in_the_body_must_be_who_signed(database: Database, origin: object) -> None:
    """Else the whole is refused."""
    body = {"origin": origin, "pdus": [event().pdu]}
    with pytest.raises((Forbidden, BadJson)):
        await inbound(database).transactions.receive(HYDRA.name, "1", body)


@pytest.mark.parametrize("body", [{"pdus": {}}, {"pdus": [], "edus": 1}, {"pdus": None}])
async def test_a_malformed_transaction_is_refused(database: Database, body: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        await inbound(database).transactions.receive(HYDRA.name, "1", {"origin": HYDRA.name, **body})


async def test_the_same_transaction_gets_the_same_answer(database: Database) -> None:
    """From any process and whatever it holds this time; nothing of it is done again."""
    made, beside = inbound(database), inbound(database)
    first = event("a", by=EVIL, sender=HYDRA.user())
    answer = await send(made, first)
    assert "error" in answer[first.event_id]
    for each in (made, beside, inbound(database)):
        assert await send(each, event("other")) == answer
        assert each.intake.received == []
    assert await send(made, event("other"), by=EVIL) != answer


async def test_repeats_while_it_is_processed_wait_for_its_answer(database: Database) -> None:
    """In this process; another one says that it is busy."""
    made, beside = inbound(database), inbound(database)
    begun: Deferred[None] = Deferred()
    going_on: Deferred[None] = Deferred()

    async def before(room_id: str, events: Sequence[Incoming]) -> None:
        begun.callback(None)
        await going_on

    made.intake.before = before
    one = event()
    attempts = [Deferred.fromCoroutine(send(made, one)) for _ in range(3)]
    await begun
    with pytest.raises(LimitExceeded):
        await send(beside, one)
    going_on.callback(None)
    assert list(await gatherResults(attempts)) == [{one.event_id: {}}] * 3
    assert made.intake.received == [[one.event_id]]
    assert await send(beside, one) == {one.event_id: {}}


async def test_a_failure_of_ours_is_not_remembered(database: Database) -> None:
    """The transaction can come again at once, and then works."""
    made = inbound(database)
    one = event()

    async def fail(origin: str, room_id: str, pdus: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
        raise RuntimeError("out of order")

    made.transactions._rooms, rooms = _Door(fail), made.transactions._rooms
    with pytest.raises(RuntimeError):
        await send(made, one)
    made.transactions._rooms = rooms
    assert await send(made, one) == {one.event_id: {}}


class _Deadlock(psycopg2.errors.DeadlockDetected):
    pgcode = "40P01"


class _Door:
    def __init__(self, take_in: Any) -> None:
        self.take_in = take_in


async def test_an_event_that_breaks_the_intake_harms_no_other(database: Database) -> None:
    """Not even those that came with it."""
    made = inbound(database)
    poison, good = event("poison"), [event("a"), event("b")]

    async def before(room_id: str, events: Sequence[Incoming]) -> None:
        if any(each.event.event_id == poison.event_id for each in events):
            raise RuntimeError("poison")

    made.intake.before = before
    results = await send(made, good[0], poison, good[1])
    assert set(results.pop(poison.event_id)) == {"error"}
    assert results == {each.event_id: {} for each in good}


async def test_few_answers_are_kept_of_a_server(database: Database) -> None:
    """However many transactions it sends."""
    made = inbound(database)
    for number in range(30):
        await send(made, txn_id=str(number))
    row = await database.fetch_one("count", "SELECT count(*), max(txn_id::int) FROM inbound_transactions")
    assert row == (20, 29)


async def test_answers_are_forgotten_after_a_day(database: Database) -> None:
    """When the hour comes to look."""
    made = inbound(database)
    await send(made, txn_id="old")
    await database.execute("age", "UPDATE inbound_transactions SET began = now() - interval '25 hours'")
    await send(made, txn_id="new")
    assert await InboundTransactionStore(database).sweep(FORGET_AFTER) == 1
    assert await database.fetch("left", "SELECT txn_id FROM inbound_transactions") == [("new",)]


async def test_a_transaction_whose_process_ended_is_taken_up(database: Database) -> None:
    """Once its time is over, by whichever it comes to."""
    store = InboundTransactionStore(database)
    assert (await store.begin(HYDRA.name, "1", 0.0)).fresh
    one = event()
    assert await send(inbound(database), one) == {one.event_id: {}}


# Access control lists


async def test_a_server_that_a_room_shuts_out_gets_nothing_into_it(database: Database) -> None:
    """Whatever its case, whoever the sender; into other rooms it does."""
    made = inbound(database)
    made.intake.room(ROOM, "11", acl={"allow": ["*"], "deny": ["EVIL.*"]})
    shut_out, elsewhere = event("a", by=EVIL), event("b", by=EVIL, room_id=OTHER)
    passed_on = event("c", by=HYDRA)
    results = await send(made, shut_out, elsewhere, passed_on, by=EVIL)
    assert "access control list" in results[shut_out.event_id]["error"]
    assert "access control list" in results[passed_on.event_id]["error"]
    assert results[elsewhere.event_id] == {}


async def test_edus_of_a_room_keep_to_its_access_control_list(database: Database) -> None:
    """Typing goes as a whole, of receipts those of the room; nothing is heard of unknown rooms."""
    heard: list[tuple[str, Mapping[str, Any]]] = []

    async def typing(origin: str, content: Mapping[str, Any]) -> None:
        heard.append(("typing", content))

    async def receipts(origin: str, content: Mapping[str, Any]) -> None:
        heard.append(("receipts", content))

    made = inbound(database, handlers={"m.typing": typing, "m.receipt": receipts})
    made.intake.room(ROOM, "11", acl={"allow": ["*"], "deny": ["evil.test"]})
    good = {"room_id": OTHER, "user_id": "@a:evil.test", "typing": True}
    edus = [
        *({"edu_type": "m.typing", "content": {**good, "room_id": room_id}} for room_id in (ROOM, "!x:y", 5)),
        {"edu_type": "m.typing", "content": good},
        {"edu_type": "m.receipt", "content": {ROOM: {"m.read": {}}, OTHER: {"m.read": {"a": 1}}, "!a\0": {}}},
        {"edu_type": "m.receipt", "content": {ROOM: {"m.read": {}}}},
    ]
    await send(made, by=EVIL, edus=edus)
    assert sorted(heard, key=lambda each: each[0]) == [
        ("receipts", {OTHER: {"m.read": {"a": 1}}}),
        ("typing", good),
    ]


# EDUs


async def test_no_edu_fails_a_transaction_or_another_edu(database: Database) -> None:
    """Broken, unknown and failing ones are dropped; the others come in their order."""
    heard: list[Any] = []

    async def hear(origin: str, content: Mapping[str, Any]) -> None:
        if content["n"] == 2:
            raise RuntimeError("broken")
        heard.append((origin, content["n"]))

    made = inbound(database, handlers={"m.x": hear})
    broken: list[object] = [None, 1, {}, {"edu_type": "m.x"}, {"edu_type": 1, "content": {}}]
    unknown = [{"edu_type": "m.unknown", "content": {}}, {"edu_type": "m.x", "content": []}]
    numbered = [{"edu_type": "m.x", "content": {"n": number}} for number in range(5)]
    one = event()
    assert await send(made, one, edus=[*broken, *unknown, *numbered]) == {one.event_id: {}}
    assert heard == [(HYDRA.name, number) for number in (0, 1, 3, 4)]


async def test_an_edu_that_takes_too_long_is_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those after it are heard."""
    monkeypatch.setattr("federation.inbound.edus.PATIENCE", 0.01)
    heard: list[Any] = []

    async def hear(origin: str, content: Mapping[str, Any]) -> None:
        if content["n"] == 1:
            await Deferred()
        heard.append(content["n"])

    made = inbound(database, handlers={"m.x": hear})
    await send(made, edus=[{"edu_type": "m.x", "content": {"n": number}} for number in range(3)])
    assert heard == [0, 2]


@pytest.mark.parametrize("trouble", ["database", "time"])
async def test_lasting_edus_come_again_where_they_could_not_be_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """A message to a device is not lost because the database was away; nobody waits for typing."""
    monkeypatch.setattr("federation.inbound.edus.PATIENCE", 0.01)
    heard: list[Any] = []
    away = True

    async def hear(origin: str, content: Mapping[str, Any]) -> None:
        if away and content["n"] == 1:
            if trouble == "time":
                await Deferred()
            raise DatabaseUnavailable
        heard.append(content["n"])

    made = inbound(database, handlers={"m.direct_to_device": hear, "m.x": hear})
    edus = [{"edu_type": "m.direct_to_device", "content": {"n": number}} for number in range(3)]
    one = event("a")
    with pytest.raises(LimitExceeded):
        await send(made, one, edus=edus)
    assert heard == [0, 2] and one.event_id in made.intake.flags
    assert await send(made, txn_id="2", edus=[{"edu_type": "m.x", "content": {"n": 1}}]) == {}
    away = False
    heard.clear()
    assert await send(made, one, edus=edus) == {one.event_id: {}}
    assert heard == [0, 1, 2]


@pytest.mark.parametrize(
    "trouble", [DatabaseUnavailable, ConnectionLost, LockTimeout, StatementTimeout, _Deadlock]
)
async def test_events_come_again_where_the_database_could_not_take_them(
    database: Database, trouble: type[Exception]
) -> None:
    """They were not looked at, so nothing is said of them: the transaction fails and is sent again."""
    made, one = inbound(database), event("a")
    troubles = [trouble()]

    async def before(room_id: str, events: Sequence[Incoming]) -> None:
        if troubles:
            raise troubles.pop()

    made.intake.before = before
    with pytest.raises(trouble):
        await send(made, one)
    assert await send(made, one) == {one.event_id: {}}


async def test_what_is_under_way_at_a_stop_may_come_again_at_once(database: Database) -> None:
    """Who waits is told so, those in line too; no process need wait until a lease runs out."""
    made, beside = inbound(database), inbound(database)
    begun: Deferred[None] = Deferred()

    async def before(room_id: str, events: Sequence[Incoming]) -> None:
        if not begun.called:
            begun.callback(None)
            await Deferred()

    async def hear(origin: str, content: Mapping[str, Any]) -> None:
        await Deferred()

    made.intake.before = before
    made.transactions._edus = EduDispatcher(reactor, handlers={"m.x": hear}, rooms=made.intake)
    one = event("a")
    sending = [
        Deferred.fromCoroutine(
            send(made, one, txn_id=txn_id, edus=[{"edu_type": "m.x", "content": {"n": 1}}])
        )
        for txn_id in ("1", "2")
    ]
    await begun
    await deferLater(reactor, 0)
    await made.transactions.stop()
    for each in sending:
        with pytest.raises(LimitExceeded):
            await each
    with pytest.raises(LimitExceeded):
        await send(made, one, txn_id="3")
    assert await send(beside, one) == {one.event_id: {}}


# Rooms


async def test_events_of_rooms_nobody_here_is_in_are_errors(database: Database) -> None:
    """Be they known rooms or not."""
    made = inbound(database)
    made.intake.rooms[ROOM].head.hosts = {HYDRA.name}
    left, member = event("a"), event("b", event_type="m.room.member", state_key=HYDRA.user())
    unknown = event("c", room_id="!unknown:hydra.test")
    results = await send(made, left, member, unknown)
    assert set(results) == {left.event_id, member.event_id}
    assert all("not in the room" in result["error"] for result in results.values())
    assert made.intake.received == []


async def test_a_room_takes_parents_first(database: Database) -> None:
    """In whatever order they were sent."""
    made = inbound(database)
    events = [event("0")]
    for number in range(1, 10):
        events.append(event(str(number), prev=events[-1:]))
    results = await send(made, *reversed(events))
    assert results == {each.event_id: {} for each in events}
    assert made.intake.received == [[each.event_id for each in events]]


async def test_a_slow_room_holds_up_no_other(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events are kept, and come in when it is quick again."""
    monkeypatch.setattr("federation.inbound.rooms.PATIENCE", 0.05)
    made = inbound(database)
    going_on: Deferred[None] = Deferred()

    async def before(room_id: str, events: Sequence[Incoming]) -> None:
        if room_id == ROOM:
            await deferLater(reactor, 0) if going_on.called else await going_on

    made.intake.before = before
    slow, quick = event("slow"), event("quick", room_id=OTHER)
    assert await send(made, slow, quick) == {slow.event_id: {}, quick.event_id: {}}
    assert quick.event_id in made.intake.flags
    assert slow.event_id not in made.intake.flags
    theirs = event("theirs", by=EVIL, room_id=OTHER)
    assert await send(made, theirs, by=EVIL) == {theirs.event_id: {}}
    going_on.callback(None)
    await made.backlog.idle()
    assert slow.event_id in made.intake.flags


async def test_servers_take_turns_in_a_room(database: Database) -> None:
    """One with many events is not served before one with few."""
    made = inbound(database)
    begun: Deferred[None] = Deferred()
    going_on: Deferred[None] = Deferred()

    async def before(room_id: str, events: Sequence[Incoming]) -> None:
        if not begun.called:
            begun.callback(None)
            await going_on

    made.intake.before = before
    first = Deferred.fromCoroutine(send(made, event("first")))
    await begun
    third = RemoteServer("third.test")
    many = [event(str(number)) for number in range(50)]
    few = [event(str(number), by=EVIL) for number in range(2)]
    from_many = Deferred.fromCoroutine(made.rooms.take_in(third.name, ROOM, [each.pdu for each in many]))
    from_few = Deferred.fromCoroutine(send(made, *few, by=EVIL))
    while made.rooms._queues[ROOM].length < 52:
        await deferLater(reactor, 0)
    going_on.callback(None)
    await gatherResults([first, from_many, from_few])
    assert {each.event_id for each in few} <= set(made.intake.received[1][:5])


async def test_events_of_a_room_that_is_being_joined_wait_for_it(database: Database) -> None:
    """Then they are the room's."""
    joined: Deferred[None] = Deferred()

    class Joining:
        def under_way(self, room_id: str) -> Deferred[None] | None:
            return joined if room_id == "!new:hydra.test" else None

        def version(self, room_id: str) -> RoomVersion | None:
            return None

    made = inbound(database, arrivals=Joining())
    one = event("a", room_id="!new:hydra.test")
    sending = Deferred.fromCoroutine(send(made, one))
    await deferLater(reactor, 0)
    made.intake.room("!new:hydra.test")
    joined.callback(None)
    assert await sending == {one.event_id: {}}
    assert one.event_id in made.intake.flags
