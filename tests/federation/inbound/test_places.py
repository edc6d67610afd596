# SPDX-License-Identifier: Apache-2.0
"""How many transactions are processed at once, of whom, and that nobody takes up all of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from federation.inbound.transactions import MOST_AT_ONCE, MOST_IN_LINE
from homeserver.errors import LimitExceeded
from homeserver.rooms.intake.incoming import Incoming
from storage.database import Database
from tests.federation.inbound.in_memory import Inbound
from tests.federation.inbound.transacting import EVIL, OTHER, event, inbound, send
from tests.federation.servers import RemoteServer
from tests.reactor import reactor


async def test_too_many_at_once_of_one_server_are_refused(database: Database) -> None:
    """Which does not touch the others."""
    made = inbound(database)
    begun: Deferred[None] = Deferred()
    going_on: Deferred[None] = Deferred()

    async def before(room_id: str, events: Sequence[Incoming]) -> None:
        if not begun.called:
            begun.callback(None)
            await going_on

    made.intake.before = before
    attempts = [
        Deferred.fromCoroutine(send(made, event(str(number)), txn_id=str(number))) for number in range(4)
    ]
    await begun
    with pytest.raises(LimitExceeded):
        await send(made, event("5"), txn_id="5")
    theirs = event("theirs", by=EVIL, room_id=OTHER)
    assert await send(made, theirs, by=EVIL) == {theirs.event_id: {}}
    going_on.callback(None)
    assert len(list(await gatherResults(attempts))) == 4


class Held:
    """Rooms that take nothing in until they are let."""

    def __init__(self, made: Inbound) -> None:
        self.began: list[str] = []
        self._going_on: Deferred[None] = Deferred()
        self._rooms, made.transactions._rooms = made.transactions._rooms, self

    async def take_in(
        self, origin: str, room_id: str, pdus: Sequence[Mapping[str, Any]]
    ) -> dict[str, str | None]:
        self.began.append(origin)
        if origin.endswith(".evil.test"):
            waiting: Deferred[None] = Deferred()
            self._going_on.addCallback(lambda _: waiting.callback(None))
            await waiting
        return await self._rooms.take_in(origin, room_id, pdus)

    async def has(self, count: int) -> None:
        """Until so many have begun."""
        while len(self.began) < count:
            await deferLater(reactor, 0)

    def go_on(self) -> None:
        """Let them."""
        self._going_on.callback(None)


async def test_what_waits_for_its_servers_turn_takes_no_place(database: Database) -> None:
    """Sixteen servers that send all they may shut nobody out; and what waits is bounded as well."""
    made = inbound(database)
    held = Held(made)
    names = [RemoteServer(f"s{number}.evil.test") for number in range(17)]
    attempts = [
        Deferred.fromCoroutine(send(made, event(by=name), txn_id=str(number), by=name, address=name.name))
        for number in range(4)
        for name in names
    ]
    await held.has(17)
    theirs = event("theirs")
    assert await send(made, theirs) == {theirs.event_id: {}}
    refused = [each for each in attempts if each.called]
    assert len(refused) == 17 * 3 - MOST_IN_LINE
    for each in refused:
        with pytest.raises(LimitExceeded):
            await each
    held.go_on()
    await gatherResults([each for each in attempts if each not in refused])
    assert await send(made, event("more", by=names[0]), txn_id="5", by=names[0]) != {}
    assert made.transactions._turns == {}


async def test_names_of_one_address_leave_places_to_others(database: Database) -> None:
    """Where others ask; there are a lot for it all the same, as many honest servers may share one."""
    made = inbound(database)
    held = Held(made)
    names = [RemoteServer(f"s{number}.evil.test") for number in range(MOST_AT_ONCE)]
    attempts = [Deferred.fromCoroutine(send(made, event(by=name), by=name)) for name in names]
    refused = [each for each in attempts if each.called]
    assert len(refused) == 21
    await held.has(43)
    others = [RemoteServer(f"other{number}.evil.test") for number in range(14)]
    attempts += [
        Deferred.fromCoroutine(send(made, event(by=name), by=name, address="2001:db8::/64"))
        for name in others
    ]
    await held.has(57)
    theirs = event("theirs")
    assert await send(made, theirs, address="192.0.2.2") == {theirs.event_id: {}}
    for each in refused:
        with pytest.raises(LimitExceeded):
            await each
    held.go_on()
    await gatherResults([each for each in attempts if each not in refused])
    assert await send(made, event(by=names[-1]), by=names[-1]) != {}
    assert made.transactions._turns == {}
