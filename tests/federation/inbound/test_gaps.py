# SPDX-License-Identifier: Apache-2.0
"""Events whose parents are not here: kept, found their place by what other servers tell, given up in the end.

And that no server that tells nonsense, much of it, or nothing, costs more than so much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from federation.inbound import backlog, gaps
from federation.inbound.budgets import Budget
from federation.inbound.missing import SERVERS, NotToBeHad
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import room_version
from homeserver.rooms.intake.incoming import Incoming
from storage.database import Database
from storage.events import OUTLIER, REJECTED
from storage.inbound_pdus import InboundPduStore
from tests.federation.inbound.forging import resigned
from tests.federation.inbound.in_memory import OWN, Inbound
from tests.federation.inbound.telling import Telling
from tests.federation.servers import Handler, Received, Refused, RemoteServer
from tests.reactor import reactor

ROOM = "!room:hydra.test"
VERSION = room_version("11")


class Room:
    """A room of one server: its events, and what the server tells of them when asked, honestly."""

    def __init__(self, server: RemoteServer, version: str = "11", room_id: str = ROOM) -> None:
        self.server = server
        self.version = version
        self.room_id = room_id
        self.events: dict[str, Event] = {}
        self.create = self.add("m.room.create", {"room_version": version}, state_key="", auth=[])
        self.join = self.add(
            "m.room.member", {"membership": "join"}, state_key=server.user(), auth=[self.create]
        )
        self.tip = self.join

    def add(
        self,
        event_type: str = "m.room.message",
        content: Mapping[str, Any] | None = None,
        *,
        prev: Sequence[Event] | None = None,
        auth: Sequence[Event] | None = None,
        **more: Any,
    ) -> Event:
        """The next event."""
        before = [self.tip] if prev is None and self.events else list(prev or ())
        event = self.server.pdu(
            version=self.version,
            room_id=self.room_id,
            event_type=event_type,
            content=content if content is not None else {"n": len(self.events)},
            prev=before,
            auth=[self.create, self.join] if auth is None else auth,
            **more,
        ).event
        self.events[event.event_id] = self.tip = event
        return event

    def chain(self, length: int) -> list[Event]:
        """So many messages, one after another."""
        return [self.add() for _ in range(length)]

    def serve(self, server: RemoteServer | None = None) -> None:
        """Have the server (or another) answer."""
        Telling(self.events).serve(server or self.server)


HYDRA, OTHER = "hydra.test", "other.test"


def world(database: Database, version: str = "11", **how: Any) -> tuple[Inbound, Room, RemoteServer]:
    """A room of hydra.test, its beginning known here; other.test is in it and knows nothing."""
    hydra, other = RemoteServer(HYDRA), RemoteServer(OTHER)
    inbound = Inbound(database, hydra, other, **how)
    room = Room(hydra, version)
    inbound.intake.room(ROOM, version, HYDRA, OTHER)
    inbound.intake.put(room.create, room.join)
    inbound.intake.rooms[ROOM].head.extremities = [(room.join.event_id, 1)]
    return inbound, room, other


async def deliver(inbound: Inbound, *events: Event, by: str = HYDRA) -> dict[str, str | None]:
    """Hand events in, and let what follows from them come to rest."""
    errors = await inbound.rooms.take_in(by, ROOM, [each.pdu for each in events])
    await inbound.backlog.idle()
    return errors


async def waiting(database: Database) -> list[tuple[str, int]]:
    """Id and attempts of what waits."""
    rows = await database.fetch("waiting", "SELECT event_id, attempts FROM inbound_pdus ORDER BY id")
    return [(str(row[0]), int(row[1])) for row in rows]


async def make_due(database: Database) -> None:
    """Let the time pass until the next attempt."""
    await database.execute("due", "UPDATE inbound_pdus SET not_before = now()")


def requests(server: RemoteServer, what: str) -> int:
    method = "POST" if what == "get_missing_events" else "GET"
    return len(server.requests(method, f"/_matrix/federation/v1/{what}/"))


# What honest servers tell


@pytest.mark.parametrize("length", [1, 2, 30, 120])
async def test_a_gap_is_filled_from_who_sent_the_event(database: Database, length: int) -> None:
    """Parents first, and without asking for any state."""
    inbound, room, _ = world(database)
    room.serve()
    chain = room.chain(length + 1)
    assert await deliver(inbound, chain[-1]) == {chain[-1].event_id: None}
    assert inbound.intake.received[-1] == [each.event_id for each in chain]
    assert requests(room.server, "state_ids") == 0
    assert await waiting(database) == []


async def test_the_event_is_durable_before_its_sender_is_answered(database: Database) -> None:
    """Whatever happens then, it is not lost."""
    inbound, room, _ = world(database)
    asked: Deferred[None] = Deferred()

    async def before(destination: str, method: str, target: str) -> None:
        if not asked.called:
            asked.callback(None)
        await Deferred()

    inbound.network.before = before
    chain = room.chain(2)
    assert await inbound.rooms.take_in(HYDRA, ROOM, [chain[-1].pdu]) == {chain[-1].event_id: None}
    assert await waiting(database) == [(chain[-1].event_id, 0)]
    await asked
    await deferLater(reactor, 0)
    await inbound.backlog.stop()

    room.serve()
    after = Inbound(database, room.server, intake=inbound.intake, worker="two")
    after.backlog.start()
    while await waiting(database):
        await deferLater(reactor, 0.01)
    await after.backlog.idle()
    await after.backlog.stop()
    assert chain[-1].event_id in inbound.intake.flags


async def test_what_waits_here_already_is_not_asked_for(database: Database) -> None:
    """An event whose parent waits joins it."""
    inbound, room, _ = world(database)
    chain = room.chain(3)
    await deliver(inbound, chain[2])
    assert chain[2].event_id not in inbound.intake.flags
    await deliver(inbound, chain[1])
    room.serve()
    await make_due(database)
    inbound.backlog._wake(ROOM)
    await inbound.backlog.idle()
    assert {each.event_id for each in chain} <= set(inbound.intake.flags)
    assert await waiting(database) == []


async def test_a_gap_too_long_gets_the_state_at_its_edge(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far back as is asked for the events are had; before them, one event with the state before it."""
    monkeypatch.setattr(gaps, "STEPS", 1)
    inbound, room, _ = world(database)
    room.serve()
    topic = room.add("m.room.topic", {"topic": "t"}, state_key="")
    chain = room.chain(100)
    await deliver(inbound, chain[-1])
    edge = chain[-1 - gaps.STEP_LIMIT - 1]
    assert list(inbound.intake.states) == [edge.event_id]
    assert set(inbound.intake.states[edge.event_id]) == {
        room.create.event_id,
        room.join.event_id,
        topic.event_id,
    }
    assert inbound.intake.flags[topic.event_id] == OUTLIER
    assert inbound.intake.flags[chain[-1].event_id] == 0


async def test_without_the_missing_event_its_child_gets_the_state(database: Database) -> None:
    """Where nobody has the event itself any more."""
    inbound, room, _ = world(database)
    room.serve()
    lost, child = room.chain(2)
    del room.events[lost.event_id]
    await deliver(inbound, child)
    assert set(inbound.intake.states[child.event_id]) == {room.create.event_id, room.join.event_id}
    assert inbound.intake.flags[child.event_id] == 0


async def test_history_from_before_this_server_came_is_no_news(database: Database) -> None:
    """A late branch that began in it is bridged by the state, whatever the other server would tell."""
    inbound, room, _ = world(database)
    room.serve()
    old = room.chain(5)
    inbound.intake.begins = old[-1].depth + 1
    inbound.intake.put(arrived := room.add())
    late = room.add(prev=[old[-1]])
    await deliver(inbound, late)
    assert inbound.intake.flags[late.event_id] == 0
    assert list(inbound.intake.states) == [late.event_id]
    assert not {each.event_id for each in old} & set(inbound.intake.flags)
    (asked,) = room.server.requests("POST", "/_matrix/federation/v1/get_missing_events/")
    assert asked.json["min_depth"] == arrived.depth


async def test_other_servers_are_asked_where_the_sender_is_silent(database: Database) -> None:
    """For each thing, those in the room."""
    inbound, room, other = world(database)
    room.serve(other)
    room.server.reachable = False
    chain = room.chain(3)
    await deliver(inbound, chain[-1])
    assert inbound.intake.flags[chain[-1].event_id] == 0


async def test_authorization_that_is_missing_is_fetched(database: Database) -> None:
    """With its whole chain, in one request."""
    inbound, room, _ = world(database)
    room.serve()
    tip = room.tip
    auth = [room.create, room.join]
    for number in range(5):
        auth = [room.create, room.add("m.room.power_levels", {"n": number}, state_key="", auth=auth)]
    event = room.add(prev=[tip], auth=auth)
    await deliver(inbound, event)
    assert inbound.intake.flags[event.event_id] == 0
    assert (requests(room.server, "event_auth"), requests(room.server, "event")) == (1, 0)


async def test_a_large_state_is_asked_for_as_a_whole(database: Database) -> None:
    """Rather than by the event."""
    inbound, room, _ = world(database)
    room.serve()
    for number in range(150):
        room.add("m.x", {}, state_key=str(number))
    event = room.tip
    budget = Budget(reactor.seconds)
    state = await inbound.fetcher.fetch_state(ROOM, VERSION, event.event_id, [HYDRA], budget=budget)
    assert len(state) == 151
    assert requests(room.server, "state") == 1
    assert requests(room.server, "event") == 0
    assert budget.requests == 2


# What others tell


async def test_advisory_14_missing_events_are_checked_like_all_others(database: Database) -> None:
    """Unsigned, unsorted, forged, of another room, twice, or not asked for: only what is good leads anywhere."""
    inbound, room, other = world(database)
    chain = room.chain(4)
    elsewhere = Room(room.server, room_id="!elsewhere:hydra.test")
    stranger = elsewhere.add()
    forged = other.pdu(version="11", room_id=ROOM, sender=room.server.user(), prev=[room.tip]).event
    unsigned = {**chain[1].pdu, "signatures": {}}
    unrelated = room.add(prev=[room.join])
    answer = [chain[0].pdu, stranger.pdu, unsigned, forged.pdu, unrelated.pdu, chain[2].pdu, chain[2].pdu, {}]
    room.server.on(
        "POST", "/_matrix/federation/v1/get_missing_events/{room}", lambda _request: {"events": answer}
    )
    await deliver(inbound, chain[3])
    stored = set(inbound.intake.flags) - {room.create.event_id, room.join.event_id}
    assert stored == set()
    assert await waiting(database) == [(chain[3].event_id, 1)]
    answer[2] = chain[1].pdu
    await make_due(database)
    inbound.backlog._wake(ROOM)
    await inbound.backlog.idle()
    stored = set(inbound.intake.flags) - {room.create.event_id, room.join.event_id}
    assert stored == {each.event_id for each in chain}


async def test_missing_events_without_end_are_bounded(database: Database) -> None:
    """Each answer leads further back, for ever; what is asked and kept does not."""
    inbound, room, _ = world(database)
    chain = room.chain(1500)
    served = {each.event_id: each for each in chain}

    def endless(request: Received) -> Any:
        found: list[Event] = []
        wanted = list(request.json["latest_events"])
        while wanted and len(found) < 200:
            for name in served[wanted.pop(0)].prev_event_ids:
                if name in served:
                    found.append(served[name])
                    wanted.append(name)
        return {"events": [each.pdu for each in found]}

    room.server.on("POST", "/_matrix/federation/v1/get_missing_events/{room}", endless)
    await deliver(inbound, chain[-1])
    assert requests(room.server, "get_missing_events") <= gaps.STEPS + SERVERS
    assert inbound.budgets[0].events <= gaps.STEPS * gaps.STEP_LIMIT
    assert await waiting(database) == [(chain[-1].event_id, 1)]


async def test_advisory_20_an_authorization_chain_without_end_is_bounded(database: Database) -> None:
    """However deep the chain goes on, one event costs its budget and no more, and its server is in debt."""
    inbound, room, _ = world(database, new_budget=lambda: Budget(reactor.seconds, requests=50, events=200))
    room.serve()
    tip, auth = room.tip, [room.create, room.join]
    for number in range(500):
        auth = [room.create, room.add("m.room.power_levels", {"n": number}, state_key="", auth=auth)]
    event = room.add(prev=[tip], auth=auth)
    await deliver(inbound, event)
    assert await waiting(database) == [(event.event_id, 1)]
    assert inbound.budgets[0].requests <= 51
    assert inbound.costs.debt(HYDRA) >= 500


async def test_advisory_20_a_chain_told_event_by_event_is_bounded(database: Database) -> None:
    """Where it is not told as a whole, it is followed some way only."""
    inbound, room, _ = world(database)
    room.serve()
    room.server.on("GET", "/_matrix/federation/v1/event_auth/{room}/{event}", _refuse)
    tip, auth = room.tip, [room.create, room.join]
    for number in range(100):
        auth = [room.create, room.add("m.room.power_levels", {"n": number}, state_key="", auth=auth)]
    event = room.add(prev=[tip], auth=auth)
    await deliver(inbound, event)
    assert await waiting(database) == [(event.event_id, 1)]
    assert requests(room.server, "event") < 40


def _answering(answer: Any) -> Handler:
    return lambda _request: answer


def _refuse(_request: Received) -> Any:
    raise Refused(404, "M_NOT_FOUND")


@pytest.mark.parametrize("version", ["1", "2"])
async def test_events_that_allow_each_other_come_to_nothing(database: Database, version: str) -> None:
    """Where servers choose ids, circles can be made, of authorization and of order."""
    inbound, room, _ = world(database, version)
    room.serve()
    ids = [f"$circle{number}:hydra.test" for number in range(3)]
    circle = []
    for number, event_id in enumerate(ids):
        after = [[ids[number - 1], {"sha256": "x"}]]
        known = [[room.create.event_id, {"sha256": "x"}], [room.join.event_id, {"sha256": "x"}]]
        pdu = room.server.pdu(
            version=version, room_id=ROOM, event_type="m.x", state_key=str(number)
        ).event.pdu
        pdu = {**pdu, "event_id": event_id, "prev_events": after, "auth_events": [*known, *after]}
        circle.append(Event.from_pdu(resigned(pdu, version, room.server), room_version(version)))
    for each in circle:
        room.events[each.event_id] = each
    errors = await deliver(inbound, *circle)
    assert all(error for error in errors.values())
    errors = await deliver(inbound, circle[0])
    assert set(inbound.intake.flags) == {room.create.event_id, room.join.event_id}
    assert len(await waiting(database)) == 1


async def test_advisory_12_a_rejected_event_is_never_part_of_a_state(database: Database) -> None:
    """Nor an event of another room, one without a state key, or one that cannot be had."""
    inbound, room, _ = world(database)
    rejected = room.add("m.room.topic", {"topic": "no"}, state_key="")
    inbound.intake.put(rejected, flags=REJECTED | OUTLIER)
    elsewhere = Room(room.server, room_id="!elsewhere:hydra.test")
    inbound.intake.put(elsewhere.create)
    text = room.add()
    inbound.intake.put(text)
    event = room.add()
    told = [room.create, room.join, rejected, elsewhere.create, text]
    ids = [*(each.event_id for each in told), "$nowhere", "$a\0b", "x"]
    room.server.on(
        "GET",
        "/_matrix/federation/v1/state_ids/{room}",
        lambda _request: {"pdu_ids": ids, "auth_chain_ids": []},
    )
    state = await inbound.fetcher.fetch_state(ROOM, VERSION, event.event_id, [HYDRA])
    assert state == [room.create.event_id, room.join.event_id]


async def test_a_state_that_cannot_be_one_is_not_believed(database: Database) -> None:
    """Without a create event, or with two events in one place."""
    inbound, room, _ = world(database)
    room.serve()
    topics = [room.add("m.room.topic", {"topic": str(number)}, state_key="") for number in range(2)]
    event = room.add()
    for told in ([room.join], [room.create, room.join, *topics]):
        answer = {"pdu_ids": [each.event_id for each in told], "auth_chain_ids": []}
        room.server.on("GET", "/_matrix/federation/v1/state_ids/{room}", _answering(answer))
        with pytest.raises(NotToBeHad):
            await inbound.fetcher.fetch_state(ROOM, VERSION, event.event_id, [HYDRA, OTHER])


async def test_another_event_than_asked_for_is_not_taken(database: Database) -> None:
    """Nor several for one."""
    inbound, room, other = world(database)
    wanted, given = room.add(), room.add()
    room.server.on("GET", "/_matrix/federation/v1/event/{event}", lambda _request: {"pdus": [given.pdu]})
    other.on(
        "GET", "/_matrix/federation/v1/event/{event}", lambda _request: {"pdus": [wanted.pdu, given.pdu]}
    )
    assert await inbound.fetcher.fetch_events(ROOM, VERSION, [wanted.event_id], [HYDRA, OTHER]) == {}


# Bounds


async def test_an_event_is_given_up_in_the_end(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """After so many attempts, with a line in the log."""
    inbound, room, _ = world(database)
    chain = room.chain(2)
    await deliver(inbound, chain[-1])
    for attempts in range(1, len(backlog.DELAYS) + 1):
        assert await waiting(database) == [(chain[-1].event_id, attempts)]
        await make_due(database)
        inbound.backlog._wake(ROOM)
        await inbound.backlog.idle()
    assert await waiting(database) == []
    assert any("gave up" in record.message for record in caplog.records)
    assert set(inbound.intake.flags) == {room.create.event_id, room.join.event_id}


async def test_a_flood_of_events_without_parents_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many are kept of a room and of a server, the rest are told so; each costs what one may."""
    monkeypatch.setattr(backlog, "MOST_PER_ROOM", 30)
    inbound, room, _ = world(database)
    first = [room.add(prev=[room.add(prev=[room.join])]) for _ in range(50)]
    errors = await inbound.rooms.take_in(HYDRA, ROOM, [each.pdu for each in first])
    refused = [event_id for event_id, error in errors.items() if error is not None]
    assert len(refused) == 20
    await inbound.backlog.idle()
    assert len(await waiting(database)) == 30
    assert sum(budget.requests for budget in inbound.budgets) <= 30 * 3 * SERVERS


async def test_a_server_in_debt_waits_and_others_do_not(database: Database) -> None:
    """What was done for it is remembered for a while."""
    inbound, room, _ = world(database)
    room.serve()
    room.serve(inbound.network.servers[OTHER])
    inbound.costs.charge(HYDRA, 1e6)
    hers, theirs = room.chain(2)[-1], room.chain(2)[-1]
    await deliver(inbound, hers)
    assert await waiting(database) == [(hers.event_id, 0)]
    await deliver(inbound, theirs, by=OTHER)
    assert theirs.event_id in inbound.intake.flags


async def test_a_server_that_never_answers_holds_up_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in the same room; and the time it takes is charged."""
    monkeypatch.setattr(backlog, "NEXT_AFTER", 0.01)
    inbound, room, other = world(database)
    room.serve(other)

    async def before(destination: str, method: str, target: str) -> None:
        if destination == HYDRA:
            await Deferred()

    inbound.network.before = before
    by_hydra = room.add(prev=[room.add(prev=[room.join])])
    by_other = other.pdu(
        version="11", room_id=ROOM, prev=[room.add(prev=[room.join])], auth=[room.create, room.join]
    ).event
    room.events[by_other.event_id] = by_other
    assert await inbound.rooms.take_in(HYDRA, ROOM, [by_hydra.pdu]) == {by_hydra.event_id: None}
    assert await inbound.rooms.take_in(OTHER, ROOM, [by_other.pdu]) == {by_other.event_id: None}
    while by_other.event_id not in inbound.intake.flags or len(await waiting(database)) > 1:
        await deferLater(reactor, 0.01)
    await inbound.backlog.stop()
    assert by_hydra.event_id not in inbound.intake.flags
    assert inbound.costs.debt(HYDRA) > 0
    assert await waiting(database) == [(by_hydra.event_id, 0)]


async def test_servers_take_turns_among_what_waits(database: Database) -> None:
    """Each one's events least deep first; none may fill the place of all."""
    store = InboundPduStore(database)
    bounds: dict[str, Any] = {"per_room": 8, "per_origin": 5}
    many = [(f"$a{depth}", depth, "{}") for depth in (5, 4, 3, 2, 1, 0)]
    assert await store.keep(ROOM, HYDRA, many, **bounds) == {"$a5", "$a4", "$a3", "$a2", "$a1"}
    assert await store.keep(ROOM, HYDRA, many[:1], **bounds) == {"$a5"}
    assert await store.keep("!other:hydra.test", HYDRA, many[:1], **bounds) == set()
    few = [("$b9", 9, "{}"), ("$b8", 8, "{}")]
    assert await store.keep(ROOM, OTHER, few, **bounds) == {"$b9", "$b8"}
    third = [("$c1", 1, "{}"), ("$c2", 2, "{}")]
    assert await store.keep(ROOM, "third.test", third, **bounds) == {"$c1"}
    due = [each.event_id for each in await store.due(ROOM, 6)]
    assert due == ["$a1", "$c1", "$b8", "$a2", "$b9", "$a3"]


async def test_a_room_is_worked_on_by_one_process(database: Database) -> None:
    """Another takes it up when the first has let go, or has not been heard of."""
    store = InboundPduStore(database)
    assert await store.lease(ROOM, "one", 60)
    assert not await store.lease(ROOM, "two", 60)
    assert await store.lease(ROOM, "one", -1)
    assert await store.lease(ROOM, "two", 60)
    await store.release(ROOM, "one")
    assert not await store.lease(ROOM, "one", 60)
    await store.release(ROOM, "two")
    assert await store.lease(ROOM, "one", 60)


async def test_two_processes_do_not_do_the_same(database: Database) -> None:
    """What both were sent is fetched once."""
    inbound, room, _ = world(database)
    beside = Inbound(database, room.server, intake=inbound.intake, worker="two")
    room.serve()
    chain = room.chain(3)
    for each in (inbound, beside):
        await each.rooms.take_in(HYDRA, ROOM, [chain[-1].pdu])
    await inbound.backlog.idle()
    await beside.backlog.idle()
    assert requests(room.server, "get_missing_events") == 1
    assert await waiting(database) == []


async def test_events_of_a_room_that_all_have_left_are_dropped(database: Database) -> None:
    """Nobody is there to see them."""
    inbound, room, _ = world(database)
    chain = room.chain(2)
    await deliver(inbound, chain[-1])
    inbound.intake.rooms[ROOM].head.hosts.discard(OWN)
    await make_due(database)
    inbound.backlog._wake(ROOM)
    await inbound.backlog.idle()
    assert await waiting(database) == []


async def test_a_failure_here_leaves_the_event_for_another_time(database: Database) -> None:
    """It is neither lost nor does it stop the others."""
    inbound, room, _ = world(database)
    room.serve()
    poison, good = room.chain(2)[-1], room.add(prev=[room.add(prev=[room.join])])

    async def before(room_id: str, events: Sequence[Incoming]) -> None:
        if any(each.event.event_id == poison.event_id for each in events) and len(events) > 1:
            raise RuntimeError("poison")

    await inbound.store.keep(ROOM, HYDRA, [_row(poison), _row(good)], per_room=10, per_origin=10)
    inbound.intake.before = before
    inbound.backlog._wake(ROOM)
    await inbound.backlog.idle()
    assert await waiting(database) == [(poison.event_id, 1)]
    assert good.event_id in inbound.intake.flags


def _row(event: Event) -> tuple[str, int, str]:
    return event.event_id, event.depth, encode_canonical(event.pdu).decode()
