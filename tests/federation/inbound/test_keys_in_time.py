# SPDX-License-Identifier: Apache-2.0
"""Keys of other servers that are long in coming: events wait for them, but no place is held for long by any name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from federation.client.errors import Unreachable
from homeserver.protocol.events import Event
from homeserver.protocol.signing import sign_json
from storage.database import ConnectionLost, Database
from storage.server_keys import KeyAnswer, ServerKey, ServerKeyStore
from tests.federation.inbound.transacting import EVIL, HYDRA, event, inbound, send
from tests.federation.keys.world import World
from tests.federation.servers import Received, RemoteServer
from tests.reactor import reactor


class SlowStore(ServerKeyStore):
    """Lets what is `slow` wait for `go`."""

    def __init__(self, database: Database, *slow: str) -> None:
        super().__init__(database)
        self.slow = slow
        self.waiting: list[str] = []
        self.go: Deferred[None] = Deferred()

    async def _wait(self, what: str) -> None:
        if what in self.slow:
            self.waiting.append(what)
            opened: Deferred[None] = Deferred()
            self.go.addCallbacks(lambda _: opened.callback(None), opened.errback)
            await opened

    async def get(self, server_names: Collection[str]) -> list[ServerKey]:
        await self._wait("get")
        return await super().get(server_names)

    async def keep_direct(
        self, server_name: str, keys: Sequence[ServerKey], answer: KeyAnswer | None, now: int
    ) -> None:
        await self._wait("keep_direct")
        await super().keep_direct(server_name, keys, answer, now)

    async def keep_notarised(self, keys: Sequence[ServerKey], now: int) -> None:
        await self._wait("keep_notarised")
        await super().keep_notarised(keys, now)


class Sending:
    """A transaction, with the keyring of `world`; servers of `hanging` accept connections and do not answer."""

    def __init__(self, database: Database, world: World, *events: Event) -> None:
        self._clock = Clock()
        self._made = inbound(database)
        self._made.reader._verifier = world.another()
        self._made.rooms._reactor = self._clock
        self.hangs: Callable[[str], bool] = lambda _name: False
        self.asked: list[str] = []
        self._held: list[Deferred[None]] = []
        world.network.before = self._before
        self._events = events

    def begin(self) -> None:
        self.answer = Deferred.fromCoroutine(send(self._made, *self._events))
        self.answer.addErrback(lambda failure: failure)

    async def _before(self, destination: str, *_request: str) -> None:
        self.asked.append(destination)
        if self.hangs(destination):
            held: Deferred[None] = Deferred()
            self._held.append(held)
            await held

    def break_off(self) -> None:
        """Requests without an answer time out."""
        held, self._held = self._held, []
        for each in held:
            if not each.called:
                each.errback(Unreachable("evil.test", "it did not answer"))

    async def until(self, come: Callable[[], object]) -> None:
        while not come():
            await deferLater(reactor, 0)

    async def pass_by(self, seconds: int) -> None:
        """Let that many seconds go, and whatever may happen in them."""
        for _ in range(seconds):
            self._clock.advance(1)
            await deferLater(reactor, 0)

    async def in_the_end(self) -> dict[str, Any]:
        """What the events got, when no more time goes by."""
        await self.until(lambda: self.answer.called)
        return await self.answer


def notary(name: str, *known: RemoteServer) -> RemoteServer:
    """One that knows the keys of servers."""
    server = RemoteServer(name)

    def query(request: Received) -> dict[str, Any]:
        wanted = [each for each in known if each.name in request.json["server_keys"]]
        return {"server_keys": [sign_json(each.key_response(), name, server.key) for each in wanted]}

    server.on("POST", "/_matrix/key/v2/query", query)
    return server


@pytest.mark.parametrize("slow", ["get", "keep_direct", "keep_notarised"])
async def test_a_slow_database_makes_no_key_unknown(database: Database, slow: str) -> None:
    """However long it takes to read or to keep keys: what was answered with an error is never sent again."""
    evil = RemoteServer("evil.test", key=EVIL.key)
    said = notary("notary.test", evil)
    world = World(database, HYDRA, evil, said, notaries=[said.name])
    if slow == "get":
        assert await world.keyring.keys_for([evil.name])
    evil.reachable = slow == "keep_direct"
    one = event("one", by=EVIL)
    store = world.store = SlowStore(database, slow)
    sending = Sending(database, world, one)
    sending.begin()
    await sending.until(lambda: store.waiting)
    await sending.pass_by(120)
    store.go.callback(None)
    assert await sending.in_the_end() == {one.event_id: {}}


@pytest.mark.parametrize("slow", ["get", "keep_direct"])
async def test_a_database_that_fails_at_last_refuses_no_event(database: Database, slow: str) -> None:
    """The transaction fails as a whole, and so comes again."""
    world = World(database, HYDRA, EVIL)
    store = world.store = SlowStore(database, slow)
    sending = Sending(database, world, event("one", by=EVIL))
    sending.begin()
    await sending.until(lambda: store.waiting)
    await sending.pass_by(120)
    store.go.errback(ConnectionLost("it went away"))
    with pytest.raises(ConnectionLost):
        await sending.in_the_end()


async def test_servers_are_not_cut_for_the_database_that_keeps_others_keys(database: Database) -> None:
    """Those whose turn has not come may wait for nothing else."""
    servers = [RemoteServer(f"s{n}.test") for n in range(40)]
    world = World(database, *servers)
    store = world.store = SlowStore(database, "keep_direct")
    sending = Sending(database, world, *(event("one", by=each) for each in servers))
    sending.begin()
    await sending.until(lambda: len(store.waiting) == 32)
    await sending.pass_by(120)
    assert len(sending.asked) == 32
    store.go.callback(None)
    assert set(map(str, (await sending.in_the_end()).values())) == {"{}"}


async def test_each_notary_is_asked(database: Database) -> None:
    """Though the server hangs, and the notary before it too."""
    evil, dead = RemoteServer("evil.test", key=EVIL.key), RemoteServer("dead.test")
    said = notary("notary.test", evil)
    world = World(database, HYDRA, evil, dead, said, notaries=[dead.name, said.name])
    assert all((await world.keyring.keys_for([dead.name, said.name])).values())
    one = event("one", by=EVIL)
    sending = Sending(database, world, one)
    sending.hangs = lambda name: name in (evil.name, dead.name)
    sending.begin()
    await sending.until(lambda: sending.asked == [evil.name])
    await sending.pass_by(10)
    sending.break_off()
    await sending.until(lambda: sending.asked == [evil.name, dead.name])
    await sending.pass_by(20)
    assert await sending.in_the_end() == {one.event_id: {}}


async def test_a_dead_notary_keeps_no_server_of_a_crowd_from_being_asked(database: Database) -> None:
    """Those that live are heard, though as many as are asked at a time hang."""
    servers, dead = [RemoteServer(f"s{n}.test") for n in range(40)], RemoteServer("dead.test")
    world = World(database, *servers, dead, notaries=[dead.name])
    assert (await world.keyring.keys_for([dead.name]))[dead.name]
    sending = Sending(database, world, *(event("one", by=each) for each in servers))
    sending.hangs = lambda _name: len(sending.asked) <= 33
    sending.begin()
    await sending.until(lambda: sending.asked == [dead.name])
    await sending.pass_by(20)
    await sending.until(lambda: len(sending.asked) == 33)
    await sending.pass_by(10)
    sending.break_off()
    results = await sending.in_the_end()
    assert sum(result == {} for result in results.values()) == 8


async def test_names_that_do_not_answer_hold_up_no_other_event_for_long(database: Database) -> None:
    """What the keys that are here suffice for is in its room, the rest is an error; nothing has to come again."""
    notaries = [RemoteServer(f"notary{n}.test") for n in range(4)]
    world = World(database, HYDRA, *notaries, notaries=[each.name for each in notaries])
    assert all((await world.keyring.keys_for(each.name for each in (HYDRA, *notaries))).values())
    good = event("good")
    unproven = [event("unproven", by=RemoteServer(f"s{n}.evil.test")) for n in range(49)]
    sending = Sending(database, world, good, *unproven)
    sending.hangs = lambda _name: True
    sending.begin()
    for count in range(1, 5):
        await sending.until(lambda wanted=count: len(sending.asked) == wanted)  # type: ignore[misc]
        await sending.pass_by(10)
    await sending.until(lambda: len(sending.asked) == 36)
    await sending.pass_by(29)
    assert not sending.answer.called
    await sending.pass_by(1)
    results = await sending.in_the_end()
    assert results.pop(good.event_id) == {}
    assert list(results) == [each.event_id for each in unproven]
    assert all(set(result) == {"error"} for result in results.values())
