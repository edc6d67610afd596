# SPDX-License-Identifier: Apache-2.0
"""How `memory_budget` is shared out among what a process keeps of the database, and how much each has of it.

Owns the shares, which add up to the budget, and what an entry of a cache that counts entries is taken to weigh. What
has a small bound of its own, whatever the server's size, is not in it; nor is what requests under way need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STANDING_BYTES: Final = 450
"""A user's standing in a room;"""
LEDGER_BYTES: Final = 800
"""what is unread of a room by a user, of whom some leave a thousand messages unread, and what they are called there;"""
RECEIPT_BYTES: Final = 400
SENT_BYTES: Final = 250
"""a member that a device was told of;"""
TOKEN_BYTES: Final = 700
"""who has an access token;"""
KEY_BYTES: Final = 500
"""a key of another server, and as much again for the server;"""
PERSON_BYTES: Final = 1_800
"""how a user of another server is;"""
DEVICE_BYTES: Final = 1_000
"""which keys a device has left, and up to where it has its messages."""


class Shares(Struct, frozen=True, kw_only=True):
    """The first twelve in bytes, the others in entries."""

    rooms: int
    member_events: int
    timelines: int
    fragments: int
    views: int
    answers: int
    """Of other servers, to what users asked."""
    pasts: int
    """Of users in rooms."""
    account_data: int
    push_rules: int
    filters: int
    device_lists: int
    """Which of them changed lately."""
    outbound: int
    """What waits in memory for other servers."""
    standings: int
    ledgers: int
    receipts: int
    sent_members: int
    tokens: int
    keys: int
    persons: int
    devices: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return (
            self.rooms
            + self.member_events
            + self.timelines
            + self.fragments
            + self.views
            + self.answers
            + self.pasts
            + self.account_data
            + self.push_rules
            + self.filters
            + self.device_lists
            + self.outbound
            + self.standings * STANDING_BYTES
            + self.ledgers * LEDGER_BYTES
            + self.receipts * RECEIPT_BYTES
            + self.sent_members * SENT_BYTES
            + self.tokens * TOKEN_BYTES
            + self.keys * KEY_BYTES
            + self.persons * PERSON_BYTES
            + self.devices * DEVICE_BYTES
        )


def shares_of(budget: int) -> Shares:
    """Nearly a third for rooms, without which nothing goes; an eighth for the events of their members."""
    part = budget // 32
    return Shares(
        rooms=39 * part // 4,
        member_events=4 * part,
        timelines=2 * part,
        fragments=2 * part,
        views=part // 2,
        answers=part // 2,
        pasts=part // 2,
        account_data=2 * part,
        push_rules=part,
        filters=part // 4,
        device_lists=part // 4,
        outbound=3 * part // 4,
        standings=2 * part // STANDING_BYTES,
        ledgers=3 * part // 2 // LEDGER_BYTES,
        receipts=part // RECEIPT_BYTES,
        sent_members=part // SENT_BYTES,
        tokens=part // TOKEN_BYTES,
        keys=part // 2 // KEY_BYTES,
        persons=part // PERSON_BYTES,
        devices=part // 2 // DEVICE_BYTES,
    )


class CacheFigures(Collector):
    """What each cache holds, for Prometheus. `sizes`: by name, what gives its bytes."""

    def __init__(self, sizes: Mapping[str, Callable[[], int]]) -> None:
        self._sizes = sizes

    def collect(self) -> Iterator[Metric]:
        """The metric family."""
        size = GaugeMetricFamily(
            "lares_cache_bytes", "About how much of memory_budget each cache takes.", labels=("cache",)
        )
        for name, measure in self._sizes.items():
            size.add_metric((name,), measure())
        yield size
