# SPDX-License-Identifier: Apache-2.0
"""Limits that hold for all processes together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from homeserver.errors import LimitExceeded
from homeserver.web.limit_news import SharedLimits
from homeserver.web.rate_limits import DEFAULTS, RateLimits


class Process:
    """One that hears what `everybody` tells at once."""

    has_others = True

    def __init__(self, origin: str, everybody: list[Process]) -> None:
        self._everybody = everybody
        self.shared = SharedLimits(origin=origin, notify=self.notify, others=self)
        self.limits = RateLimits(lambda: 0.0, taken=self.shared.taken)
        everybody.append(self)

    async def notify(self, _channel: str, payloads: Sequence[str]) -> None:
        for payload in payloads:
            for each in self._everybody:
                each.shared.heard(each.limits, payload)


def test_wrong_guesses_are_counted_together() -> None:
    """Whatever process they were made at; other limits each process has to itself."""
    everybody: list[Process] = []
    first, second = Process("first", everybody), Process("second", everybody)
    for guess in range(int(DEFAULTS["login_failed"].burst)):
        (first, second)[guess % 2].limits.peek("login_failed", "@alice:localhost")
        (first, second)[guess % 2].limits.take("login_failed", "@alice:localhost")
    for process in everybody:
        with pytest.raises(LimitExceeded):
            process.limits.peek("login_failed", "@alice:localhost")
        process.limits.peek("login_failed", "@bob:localhost")
    for _ in range(int(DEFAULTS["registration"].burst)):
        first.limits.check("registration", "192.0.2.1")
    with pytest.raises(LimitExceeded):
        second.limits.check("registration", "192.0.2.1")
    for _ in range(int(DEFAULTS["rooms"].burst)):
        first.limits.check("rooms", "@alice:localhost")
    second.limits.check("rooms", "@alice:localhost")


def test_a_process_by_itself_tells_nobody() -> None:
    """Nor anybody of keys that no account or address has."""
    told: list[str] = []

    class Alone:
        has_others = False

    async def notify(_channel: str, payloads: Sequence[str]) -> None:
        told.extend(payloads)

    SharedLimits(origin="a", notify=notify, others=Alone()).taken("registration", "192.0.2.1", 1.0)
    Alone.has_others = True
    SharedLimits(origin="a", notify=notify, others=Alone()).taken("registration", "x" * 9000, 1.0)
    assert not told
