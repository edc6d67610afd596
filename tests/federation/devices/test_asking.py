# SPDX-License-Identifier: Apache-2.0
"""Asking several servers for keys: nobody waits for one of them longer than they said they would."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Sequence
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import Clock, deferLater

from federation.client.availability import AlwaysAvailable
from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.http_wire import HttpWire
from federation.client.metrics import ClientMetrics
from federation.client.wire import Answer
from federation.devices import remote_keys
from federation.devices.remote_keys import FederatedKeys
from homeserver.outgoing import Caps, Target
from homeserver.outgoing.errors import TimedOut
from storage.database import Database
from tests.devices.devices_fixture import Device, Process
from tests.federation.keys.world import KEY
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE

QUICK, SILENT, LOST = "quick.example", "silent.example", "lost.example"
ZOE = f"@zoe:{QUICK}"


class Elsewhere:
    """Three servers: one answers, one takes requests and is silent, one is looked for in vain without end."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.asked: list[str] = []

    async def find(self, server_name: str) -> Sequence[Target]:
        if server_name == LOST:
            await Deferred()
        return [Target(server_name, 443, server_name, server_name)]

    def doubt(self, server_name: str) -> None: ...

    async def request(self, _method: str, place: Target, target: str, *, caps: Caps, **_: Any) -> Answer:
        self.asked.append(place.host)
        if place.host == QUICK:
            return Answer(200, orjson.dumps({"device_keys": {ZOE: {"Z": Device(ZOE, "Z").keys()}}}))
        try:
            await Deferred[None]().addTimeout(caps.timeout, self._clock)
        except DeferredTimeout as error:
            raise TimedOut(target) from error
        raise AssertionError("it is silent")


class NoLists:
    """Nobody's devices are followed."""

    async def kept(self, user_ids: Collection[str]) -> set[str]:
        return set()

    async def follow(self, asking: str, user_ids: Collection[str]) -> None: ...


async def _open(database: Database, clock: Clock) -> tuple[Process, Elsewhere]:
    elsewhere = Elsewhere(clock)
    client = FederationClient(
        server_name="localhost",
        signing_key=KEY,
        wire=HttpWire(clock, discovery=elsewhere, http=elsewhere),  # type: ignore[arg-type]
        availability=AlwaysAvailable(),
        metrics=ClientMetrics(),
    )
    calls = FederationCalls(client)
    process = await Process.open(
        database, keys=lambda _ground, _rooms: FederatedKeys(clock, calls=calls, lists=NoLists())
    )
    return process, elsewhere


async def _pass(clock: Clock, seconds: float) -> None:
    """Time goes by; whatever it set going comes to rest."""
    clock.advance(seconds)
    for _ in range(200):
        await deferLater(reactor, 0)


def _started(asking: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(asking)


def _answered(*asking: Deferred[Any]) -> list[bool]:
    return [each.called for each in asking]


async def test_a_server_that_hangs_holds_up_nobody_for_longer_than_they_said(database: Database) -> None:
    """The keys of the others are there then, and it is named as failed."""
    clock = Clock()
    process, elsewhere = await _open(database, clock)
    wanted: dict[str, Sequence[str]] = {ZOE: (), f"@y:{SILENT}": (), f"@x:{LOST}": ()}
    asking = _started(process.query(ALICE, wanted, 3))
    while len(elsewhere.asked) < 2:
        await deferLater(reactor, 0)
    await _pass(clock, 2.9)
    assert _answered(asking) == [False]
    await _pass(clock, 0.1)
    assert _answered(asking) == [True]
    answer = await asking
    assert set(answer.device_keys) == {ZOE} and set(answer.device_keys[ZOE]) == {"Z"}
    assert set(answer.failures) == {SILENT, LOST}
    assert {failure["errcode"] for failure in answer.failures.values()} == {"M_UNAVAILABLE"}


async def test_time_in_the_line_counts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where others keep all the places taken; who gets one late has what is left."""
    monkeypatch.setattr(remote_keys, "SERVERS_AT_ONCE", 1)
    clock = Clock()
    process, elsewhere = await _open(database, clock)
    patient = _started(process.query(ALICE, {f"@y:{SILENT}": ()}, 10))
    while not elsewhere.asked:
        await deferLater(reactor, 0)
    hasty = _started(process.query(ALICE, {ZOE: ()}, 3))
    late = _started(process.claim({f"@x:{LOST}": {"X": "signed_curve25519"}}, 12))
    await _pass(clock, 0)
    await _pass(clock, 3)
    assert _answered(hasty, patient, late) == [True, False, False]
    assert set((await hasty).failures) == {QUICK}
    await _pass(clock, 7)
    assert _answered(hasty, patient, late) == [True, True, False]
    await _pass(clock, 2)
    assert _answered(late) == [True]
    assert set((await patient).failures) == {SILENT} and set((await late).failures) == {LOST}
    assert elsewhere.asked == [SILENT]
    assert set((await process.query(ALICE, {ZOE: ()}, 3)).device_keys) == {ZOE}
