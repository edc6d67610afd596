# SPDX-License-Identifier: Apache-2.0
"""The brakes on abuse let calls through: what honest clients send, as fast as they send it."""

from homeserver.web.rate_limits import RateLimits


def test_a_call_begins_at_once() -> None:
    """An invite and each of 80 candidates as an event of its own, in a second, by somebody who was just writing."""
    now = [0.0]
    limits = RateLimits(lambda: now[0])
    for number in range(10):
        limits.check("messages", "@alice:test")
        now[0] = number / 2
    for _ in range(81):
        limits.check("messages", "@alice:test")
        now[0] += 1 / 81


def test_an_office_enters_a_group_call() -> None:
    """A hundred people behind one address, who each ask for both the SFU they send to and the one they hear."""
    limits = RateLimits(lambda: 0.0)
    for _ in range(200):
        limits.check("rtc", "192.0.2.1")
