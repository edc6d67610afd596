# SPDX-License-Identifier: Apache-2.0
"""Events of a room that takes long to be joined: nothing that is said meanwhile is lost, nor believed unchecked."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from federation.inbound import backlog, rooms
from federation.inbound.early import UNHEARD
from federation.membership.joins_elsewhere import REPEAT
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion, room_version
from homeserver.rooms.intake.incoming import Incoming
from storage.database import Database
from tests.federation.inbound.in_memory import Inbound
from tests.federation.inbound.test_gaps import deliver, waiting
from tests.federation.servers import RemoteServer
from tests.reactor import reactor

HYDRA, EVIL = RemoteServer("hydra.test"), RemoteServer("evil.test")
ROOM, OTHER = "!room:hydra.test", "!other:hydra.test"
NOT_HERE = "This server is not in the room"


class Joining:
    """A room that is being joined, of the version that is said."""

    def __init__(self, version: str = "11") -> None:
        self._version = room_version(version)
        self._waiting: list[Deferred[None]] = []
        self.ended = False

    def under_way(self, room_id: str) -> Deferred[None] | None:
        if self.ended or room_id != ROOM:
            return None
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def version(self, room_id: str) -> RoomVersion | None:
        return None if self.ended or room_id != ROOM else self._version

    def end(self) -> None:
        self.ended = True
        for each in self._waiting:
            each.callback(None)


class Door:
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    async def stray(self, origin: str, incoming: Incoming) -> bool:
        self.shown.append(incoming.event.event_id)
        return True


def event(body: str = "hello", *, by: RemoteServer = HYDRA, **more: Any) -> Event:
    return by.pdu(**{"version": "11", "room_id": ROOM, "content": {"body": body}, **more}).event


class Slow:
    """A server that joins the room, for longer than anybody likes to be kept waiting."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch, version: str = "11") -> None:
        monkeypatch.setattr(rooms, "ARRIVAL_PATIENCE", 0.02)
        self.database = database
        self.joining = Joining(version)
        self.door = Door()
        self.inbound = Inbound(database, HYDRA, EVIL, arrivals=self.joining, strays=self.door)

    async def send(self, *events: Event, by: RemoteServer = HYDRA) -> dict[str, str | None]:
        return await self.inbound.rooms.take_in(by.name, ROOM, [each.pdu for each in events])

    async def joined(self, version: str = "11", **how: Any) -> None:
        """The join has ended, and with it what waited for it."""
        self.inbound.intake.room(ROOM, version, HYDRA.name, EVIL.name, **how)
        await self.ended()

    async def ended(self) -> None:
        self.joining.end()
        await self.inbound.backlog.idle()


async def test_what_is_said_during_a_slow_join_is_the_rooms(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing is said after it that would lead back to it, and it came in the wrong order."""
    slow = Slow(database, monkeypatch)
    first = event("first")
    second = event("second", prev=[first])
    assert await slow.send(second) == {second.event_id: None}
    assert await slow.send(first) == {first.event_id: None}
    assert slow.inbound.intake.received == []
    await slow.joined()
    assert {first.event_id, second.event_id} <= slow.inbound.intake.flags.keys()
    assert await waiting(database) == []


async def test_only_the_first_are_held(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the join is known to be slow its servers are answered at once: they have other rooms to tell of."""
    slow = Slow(database, monkeypatch)
    await slow.send(event("first"))
    clock = Clock()
    slow.inbound.rooms._reactor = clock
    await slow.send(event("second"))
    assert clock.getDelayedCalls() == []
    await slow.joined()
    again = slow.joining = slow.inbound.rooms._arrivals = Joining()
    slow.inbound.intake.rooms.clear()
    sending = Deferred.fromCoroutine(slow.send(event("third")))
    await deferLater(reactor, 0)
    assert len(clock.getDelayedCalls()) == 1
    again.end()
    assert await sending == {}


async def test_early_events_wait_for_nothing_but_the_join(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither does looking for work drop them meanwhile, nor do they keep other rooms from their turn."""
    monkeypatch.setattr(backlog, "ROOMS_AT_ONCE", 1)
    slow = Slow(database, monkeypatch)
    early, placed = event("early"), event("placed", room_id=OTHER)
    await slow.send(early)
    slow.inbound.intake.room(OTHER, "11", HYDRA.name)
    row = (placed.event_id, placed.depth, _text(placed))
    await slow.inbound.store.keep(OTHER, HYDRA.name, [row], per_room=10, per_origin=10)
    await slow.inbound.backlog._look()
    while placed.event_id not in slow.inbound.intake.flags:
        await deferLater(reactor, 0)
    assert (early.event_id, -1) in await waiting(database)
    await slow.joined()
    assert early.event_id in slow.inbound.intake.flags


async def test_they_outlive_the_process_that_they_came_to(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another that looks for what is left behind finds them."""
    slow = Slow(database, monkeypatch)
    early = event("early")
    await slow.send(early)
    await slow.inbound.backlog.stop()
    other = Slow(database, monkeypatch)
    await other.inbound.backlog._look()
    assert await waiting(database) == [(early.event_id, -1)]
    await other.joined()
    assert early.event_id in other.inbound.intake.flags


async def test_of_a_join_that_fails_nothing_is_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But what tells of the end of an invitation is heard."""
    slow = Slow(database, monkeypatch)
    message, leave = event(), event(event_type="m.room.member", state_key="@alice:own.test")
    await slow.send(message, leave)
    slow.inbound.intake.room(ROOM)
    slow.inbound.intake.rooms[ROOM].head.hosts.clear()
    await slow.ended()
    assert slow.door.shown == [leave.event_id]
    assert slow.inbound.intake.received == []
    assert await waiting(database) == []
    assert await slow.send(event("late")) != {}


async def test_of_a_room_that_was_never_known_nothing_is_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(database, monkeypatch)
    await slow.send(event())
    await slow.ended()
    assert await waiting(database) == []
    assert slow.door.shown == []


async def test_early_events_are_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """As all that wait; what is beyond is said to be."""
    monkeypatch.setattr(backlog, "MOST_PER_ROOM", 3)
    slow = Slow(database, monkeypatch)
    errors = await slow.send(*(event(str(number)) for number in range(5)))
    assert sorted(map(str, errors.values())) == ["None"] * 3 + ["Too many events are waiting here"] * 2
    await slow.joined()


async def test_whom_the_room_shuts_out_has_said_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its access control list is only known when it is joined."""
    slow = Slow(database, monkeypatch)
    good, bad = event("good"), event("bad", by=EVIL)
    await slow.send(good)
    await slow.send(bad, by=EVIL)
    await slow.joined(acl={"allow": ["*"], "deny": [EVIL.name]})
    assert good.event_id in slow.inbound.intake.flags
    assert bad.event_id not in slow.inbound.intake.flags
    assert await waiting(database) == []


@pytest.mark.parametrize("said", ["1", "7", "10"])
async def test_a_version_that_was_lied_about_gets_nothing_in_unchecked(
    database: Database, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """By the rules of version 7 nobody need sign but the sender's server; in version 8 who vouches must as well."""
    slow = Slow(database, monkeypatch, said)
    forged = event(
        version="8",
        event_type="m.room.member",
        state_key=HYDRA.user(),
        content={"membership": "join", "join_authorised_via_users_server": EVIL.user()},
    )
    good = event(version="8")
    await slow.send(forged, good)
    kept = [event_id for event_id, _ in await waiting(database)]
    if said == "7":
        assert kept == [forged.event_id, good.event_id]
    await slow.joined("8")
    assert forged.event_id not in slow.inbound.intake.flags
    assert (good.event_id in slow.inbound.intake.flags) is (said != "1")
    assert await waiting(database) == []


async def test_what_breaks_the_rules_is_refused_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unsigned event waits for nothing."""
    slow = Slow(database, monkeypatch)
    unsigned = {**event().pdu, "signatures": {}}
    (error,) = (await slow.inbound.rooms.take_in(HYDRA.name, ROOM, [unsigned])).values()
    assert error is not None
    assert error != NOT_HERE
    assert await waiting(database) == []
    await slow.ended()


async def test_what_is_early_fills_no_gap(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what comes once the room is joined; only when it was checked by the room's own rules."""
    slow = Slow(database, monkeypatch)
    first = event("first", by=EVIL)
    await slow.send(first)
    assert await slow.inbound.store.by_ids(ROOM, [first.event_id]) == []
    assert await slow.inbound.store.due(ROOM, 5) == []
    await slow.joined()
    second = event("second", prev=[first])
    assert await deliver(slow.inbound, second) == {second.event_id: None}
    assert second.event_id in slow.inbound.intake.flags


async def test_who_has_not_heard_of_a_join_drops_nothing_of_it_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is new, or was not reached by what the joining one said: that one says it again."""
    assert UNHEARD > REPEAT
    slow = Slow(database, monkeypatch)
    kept = event("kept")
    await slow.send(kept)
    await slow.inbound.backlog.stop()
    other = Slow(database, monkeypatch)
    other.joining.ended = True  # as far as known there
    clock = other.inbound.early._scheduler = Clock()
    await other.inbound.backlog._look()
    while other.inbound.backlog._running and not clock.getDelayedCalls():
        await deferLater(reactor, 0)
    assert await waiting(database) == [(kept.event_id, -1)]
    other.joining.ended = False
    clock.advance(UNHEARD)
    await deferLater(reactor, 0)
    await other.joined()
    assert kept.event_id in other.inbound.intake.flags


async def test_what_nobody_says_to_be_joined_is_dropped_in_the_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that joined it is gone."""
    slow = Slow(database, monkeypatch)
    await slow.send(event())
    await slow.inbound.backlog.stop()
    other = Slow(database, monkeypatch)
    other.joining.ended = True
    clock = other.inbound.early._scheduler = Clock()
    await other.inbound.backlog._look()
    while other.inbound.backlog._running and not clock.getDelayedCalls():
        await deferLater(reactor, 0)
    clock.advance(UNHEARD)
    await other.inbound.backlog.idle()
    assert await waiting(database) == []


async def test_what_is_early_stays_so_when_its_server_is_reached_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when the same event, waiting in the room as it was before this server left, is put off: nothing but the
    room's own rules has it wait with the others."""
    slow = Slow(database, monkeypatch)
    kept = event()
    await slow.send(kept)
    # The database's clock was set back.
    await database.execute("later", "UPDATE inbound_pdus SET not_before = now() + interval '1 hour'")
    assert await slow.inbound.store.hasten(HYDRA.name) == set()
    await slow.inbound.store.postpone(ROOM, [kept.event_id], 60.0, attempts=1)
    assert await waiting(database) == [(kept.event_id, -1)]
    await slow.ended()


def _text(event: Event) -> str:
    return encode_canonical(event.pdu).decode()
