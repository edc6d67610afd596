# SPDX-License-Identifier: Apache-2.0
"""Figures of what is sent to other servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import Counter, Gauge

from federation.outbound.transaction import Item, Pdu

_TRANSACTIONS = Counter(
    "lares_federation_transactions_sent", "Transactions sent to other servers", ("outcome",)
)
_ITEMS = Counter("lares_federation_items_sent", "Events and ephemeral units sent to other servers", ("kind",))
_GAUGES = {
    "lanes": Gauge("lares_federation_sending_destinations", "Servers with something waiting in memory"),
    "in_flight": Gauge("lares_federation_transactions_in_flight", "Transactions under way to other servers"),
    "queued": Gauge(
        "lares_federation_queued_events", "Events in memory that wait for a server, once for each"
    ),
    "behind": Gauge("lares_federation_behind_destinations", "Servers that will be sent what they missed"),
    "shards": Gauge("lares_federation_held_shards", "Shards of destinations that this process serves, of 64"),
}


class OutboundMetrics:
    """Counts."""

    def __init__(self) -> None:
        self.failed = _TRANSACTIONS.labels("failed")
        self.refused_pdus = _ITEMS.labels("refused_event")
        self.dropped = _ITEMS.labels("dropped")
        self._delivered = _TRANSACTIONS.labels("delivered")
        self._pdus = _ITEMS.labels("event")
        self._edus = _ITEMS.labels("ephemeral")

    def sent(self, items: Sequence[Item]) -> None:
        """A transaction arrived."""
        self._delivered.inc()
        pdus = sum(isinstance(item, Pdu) for item in items)
        self._pdus.inc(pdus)
        self._edus.inc(len(items) - pdus)

    def watch(self, **figures: Callable[[], float]) -> None:
        """Where the figures of the moment are read: `lanes`, `in_flight`, `queued`, `behind`, `shards`."""
        for name, read in figures.items():
            _GAUGES[name].set_function(read)
