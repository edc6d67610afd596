# SPDX-License-Identifier: Apache-2.0
"""Leases of a process that stops while the database answers nothing, and what it looks for while it has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock

from federation.outbound.delivery import Outcome
from federation.outbound.leases import (
    LOOK,
    RENEW,
    BehindServers,
    Joining,
    Leases,
    Serving,
    Shards,
    WaitingServers,
)
from federation.outbound.loading import Loader, MissedEvents
from federation.outbound.progress import Progress
from federation.outbound.sender import Sender
from federation.outbound.transaction import Item
from storage.database import DatabaseUnavailable
from storage.destinations import SHARDS, Behind
from storage.outbound_shards import Held
from storage.outgoing_edus import FirstEdus, KeptEdu


class SilentStore:
    """Takes what it is asked once; from then on it answers nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def hold(
        self,
        seconds: int,
        marks: Mapping[int, int],
        behind: Sequence[tuple[str, int | None]] = (),
        *,
        alone: bool = False,
    ) -> Held:
        self.asked.append("hold")
        if len(self.asked) > 1:
            await Deferred[None]()
        return Held({}, 0)

    async def let_go(
        self,
        marks: Mapping[int, int],
        behind: Sequence[tuple[str, int | None]] = (),
        *,
        leave: bool = False,
    ) -> None:
        self.asked.append("let go")
        await Deferred[None]()


class IdleSender:
    """Sends nothing."""

    def books(self, shards: object) -> tuple[dict[int, int], list[tuple[str, int | None]]]:
        return {}, []

    def booked(self, told: object) -> None: ...

    def go_on(self, seconds: float) -> None: ...

    def stop(self) -> None: ...

    def wait_idle(self) -> Deferred[None]:
        return succeed(None)


async def test_a_stop_that_is_cancelled_in_a_renewal_asks_nothing_more() -> None:
    """To give shards back would be the next wait for the same database."""
    clock, store = Clock(), SilentStore()
    leases = Leases(
        store=store,
        destinations=cast(BehindServers, None),
        edus=cast(WaitingServers, None),
        sender=cast(Serving, IdleSender()),
        feed=cast(Joining, None),
        clock=clock,
        alone=False,
    )
    await leases.start()
    clock.advance(RENEW)
    stopping = Deferred.fromCoroutine(leases.stop())
    stopping.cancel()
    with pytest.raises(CancelledError):
        await stopping
    assert store.asked == ["hold", "hold"]


class Table:
    """Units that are kept: a number for each server. A look at them is answered when the test says so, or fails."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()
        self.looks: list[Deferred[None]] = []

    async def waiting(self) -> set[str]:
        found, answer = {*self.kept}, Deferred[None]()
        self.looks.append(answer)
        await answer
        return found

    async def first(self, server_name: str, _limit: int, _most_bytes: int) -> FirstEdus:
        edus = [KeptEdu(n + 1, "m.test", "{}") for n in range(self.kept[server_name])]
        return FirstEdus(edus, more=False)

    async def remove(self, server_name: str, _ids: Sequence[int]) -> None:
        del self.kept[server_name]

    async def hold(self, *_: object, **__: object) -> Held:
        """All shards are free."""
        return Held(dict.fromkeys(range(SHARDS), 5), SHARDS)

    async def behind(self, _shards: Sequence[int]) -> list[Behind]:
        return []


class Network:
    """All servers are there."""

    def __init__(self) -> None:
        self.got: list[str] = []

    async def deliver(self, destination: str, items: Sequence[Item]) -> Outcome:
        self.got += [destination] * len(items)
        return Outcome(len(items))

    def is_well(self, _name: str) -> bool:
        return True

    def may_send_at(self, _name: str) -> int:
        return 0

    def failed(self, *_: object) -> None:
        raise AssertionError("all servers are there")

    refused = failed

    def delivered(self, _name: str) -> None: ...

    def join(self, shards: Mapping[int, int]) -> Deferred[Collection[int]]:
        return succeed(shards.keys())

    def leave(self, _shards: Collection[int]) -> None: ...


def process(
    clock: Clock, table: Table, network: Network, events: MissedEvents | None = None
) -> tuple[Sender, Leases]:
    sender = Sender(
        availability=network,
        delivery=network,
        loader=Loader(events=cast(MissedEvents, events), edus=table),
        progress=Progress(5),
        scheduler=clock,
        now=lambda: int(clock.seconds() * 1000),
        most_bytes=2**20,
    )
    return sender, Leases(
        store=cast(Shards, table),
        destinations=table,
        edus=table,
        sender=sender,
        feed=network,
        clock=clock,
        alone=False,
    )


def pass_time(clock: Clock, seconds: float) -> None:
    clock.pump([1.0] * int(seconds))


async def test_leases_are_renewed_by_one_at_a_time_from_the_start() -> None:
    """Of two, each would take over what either got."""
    clock, table, network = Clock(), Table(), Network()
    _, leases = process(clock, table, network)
    started = Deferred.fromCoroutine(leases.start())
    leases.heard({"free": True})
    leases.interrupted()
    clock.advance(0)
    assert len(table.looks) == 1
    table.looks.pop().callback(None)
    await started
    clock.advance(0)
    table.looks.pop().callback(None)
    assert not table.looks


async def test_a_unit_that_is_kept_while_shards_are_taken_over_is_sent() -> None:
    """It was told before the look for such units, which began earlier, had its answer."""
    clock, table, network = Clock(), Table(), Network()
    sender, leases = process(clock, table, network)
    started = Deferred.fromCoroutine(leases.start())
    table.kept["a.test"] += 1  # by another process
    sender.kept(["a.test"])
    table.looks.pop().callback(None)
    await started
    assert (network.got, table.kept) == (["a.test"], {})


async def test_a_look_that_failed_is_repeated() -> None:
    """The shards are served meanwhile."""
    clock, table, network = Clock(), Table(), Network()
    table.kept["a.test"] += 1
    sender, leases = process(clock, table, network)
    started = Deferred.fromCoroutine(leases.start())
    table.looks.pop().errback(DatabaseUnavailable("for a moment"))
    await started
    assert sender.serves("a.test")
    pass_time(clock, RENEW)
    table.looks.pop().callback(None)
    assert network.got == ["a.test"]


async def test_a_unit_of_which_nobody_told_is_sent_within_about_a_minute() -> None:
    """Who kept it died; of what was told while nobody listened it is known that it may have been."""
    clock, table, network = Clock(), Table(), Network()
    _, leases = process(clock, table, network)
    started = Deferred.fromCoroutine(leases.start())
    table.looks.pop().callback(None)
    await started
    table.kept["a.test"] += 1
    pass_time(clock, LOOK - RENEW)
    assert not table.looks
    pass_time(clock, RENEW)
    table.looks.pop().callback(None)
    assert network.got == ["a.test"]
    leases.interrupted()
    clock.advance(0)
    table.kept["b.test"] += 1
    leases.interrupted()
    for _ in range(2):  # the first look began before the second interruption
        table.looks.pop().callback(None)
        clock.advance(0)
    assert network.got == ["a.test", "b.test"]
    assert not table.looks
