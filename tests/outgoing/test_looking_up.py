# SPDX-License-Identifier: Apache-2.0
"""Names are looked up once for all who ask, and answers kept for a while."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from homeserver.outgoing.errors import NameNotFound, Overloaded
from homeserver.outgoing.names import SystemResolver
from homeserver.outgoing.single_flight import SingleFlight
from tests.reactor import reactor


async def test_localhost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system, once a minute."""
    resolver = SystemResolver(reactor)
    found = await resolver.addresses("localhost")
    assert set(found) <= {"127.0.0.1", "::1"}
    monkeypatch.setattr("homeserver.outgoing.names.ask_system", lambda _host: ())
    assert await resolver.addresses("localhost") == found
    for _ in range(2):
        with pytest.raises(NameNotFound):
            await resolver.addresses("another.example")


async def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes this server look up ever new names fills nothing."""
    monkeypatch.setattr("homeserver.outgoing.names.MAX_KEPT", 3)
    monkeypatch.setattr("homeserver.outgoing.names.ask_system", lambda _host: ("192.0.2.1",))
    resolver = SystemResolver(reactor)
    for number in range(6):
        assert await resolver.addresses(f"{number}.example") == ("192.0.2.1",)
    assert len(resolver._kept) == 3


async def test_work_is_shared() -> None:
    """By all who ask while it is under way; who is cancelled leaves the others theirs; a failure is everybody's."""
    flights: SingleFlight[str, int] = SingleFlight(1)
    begun: list[Deferred[int]] = []

    async def work() -> int:
        begun.append(Deferred())
        return await begun[-1]

    for outcome in (7, ValueError("no")):
        asked = [Deferred.fromCoroutine(flights.do("a", work)) for _ in range(3)]
        with pytest.raises(Overloaded):
            await flights.do("b", work)
        asked[0].cancel()
        with pytest.raises(CancelledError):
            await asked[0]
        begun[-1].errback(outcome) if isinstance(outcome, Exception) else begun[-1].callback(outcome)
        for each in asked[1:]:
            if isinstance(outcome, Exception):
                with pytest.raises(ValueError, match="no"):
                    await each
            else:
                assert await each == outcome
        assert len(flights) == 0
    assert len(begun) == 2
