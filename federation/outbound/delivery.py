# SPDX-License-Identifier: Apache-2.0
"""One load brought to one server: as one transaction, or, where the server refuses that, in parts.

An item that a server refuses must not keep all later ones from it. A refused load is halved until the item stands
alone; if the server then takes an empty transaction, the fault is the item's, and it is dropped with a line in the log.
If it refuses even that, the fault is the server's, and the whole load waits.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from msgspec import Struct

from federation.client.errors import BadAnswer, RemoteError, RemoteFailure
from federation.outbound.metrics import OutboundMetrics
from federation.outbound.transaction import Item, Pdu, encode_transaction
from homeserver.needs import Protocol

logger = logging.getLogger(__name__)

MOST_DROPPED = 10
"""Items dropped of one load; then the server is left alone for a while, however little it likes the rest."""
PATIENCE_WITH_500 = 3
"""A 500 is a fault of the server, until it gave so many in a row: then it may be one that an item causes."""
_PASSING = frozenset({408, 425, 429})


class Transactions(Protocol):
    """What is needed of the client (`federation.client.calls.FederationCalls`)."""

    async def send_transaction(self, destination: str, transaction_id: str, body: bytes) -> Mapping[str, Any]:
        """The `pdus` of the answer. Raises RemoteFailure."""
        ...


class Standing(Protocol):
    def refusals(self, destination: str) -> int: ...


class Outcome(Struct, frozen=True):
    """The first `done` items of the load arrived or were dropped; `failure` says why not all."""

    done: int
    failure: RemoteFailure | None = None


class Delivery:
    """One per process."""

    def __init__(
        self,
        *,
        server_name: str,
        transactions: Transactions,
        standing: Standing,
        metrics: OutboundMetrics,
        now: Callable[[], int],
    ) -> None:
        self._server_name = server_name
        self._transactions = transactions
        self._standing = standing
        self._metrics = metrics
        self._now = now
        self._prefix = secrets.token_urlsafe(9)
        self._serial = count(1)

    async def deliver(self, destination: str, items: Sequence[Item]) -> Outcome:
        """Bring the items to the server, in their order."""
        waiting = [list(items)]
        done = dropped = 0
        takes_anything = False
        while waiting:
            part = waiting.pop()
            failure = await self._send(destination, part)
            if failure is None:
                done += len(part)
            elif not self._may_be_ours(destination, failure):
                return Outcome(done, failure)
            elif len(part) > 1:
                half = len(part) // 2
                waiting += [part[half:], part[:half]]
            else:
                if not takes_anything:
                    general = await self._send(destination, [])
                    if general is not None:
                        return Outcome(done, general)
                    takes_anything = True
                if dropped == MOST_DROPPED:
                    return Outcome(done, failure)
                self._drop(destination, part[0], failure)
                dropped += 1
                done += 1
        return Outcome(done)

    async def _send(self, destination: str, items: Sequence[Item]) -> RemoteFailure | None:
        """One transaction; why it was not taken."""
        now = self._now()
        body = encode_transaction(self._server_name, now, items)
        transaction_id = f"{now}-{self._prefix}-{next(self._serial)}"
        try:
            answers = await self._transactions.send_transaction(destination, transaction_id, body)
        except BadAnswer:  # it said 200, which is what counts
            answers = {}
        except RemoteFailure as failure:
            self._metrics.failed.inc()
            return failure
        self._metrics.sent(items)
        for event_id, answer in answers.items():
            if isinstance(answer, dict) and answer.get("error"):
                self._metrics.refused_pdus.inc()
                fields = {
                    "destination": destination,
                    "event_id": event_id[:255],
                    "error": str(answer["error"])[:300],
                }
                logger.info("another server did not accept an event", extra={"fields": fields})
        return None

    def _may_be_ours(self, destination: str, failure: RemoteFailure) -> bool:
        """Whether a part of the load may be what the server does not like."""
        if not isinstance(failure, RemoteError):
            return False
        if failure.status == 500:
            return self._standing.refusals(destination) >= PATIENCE_WITH_500
        return 400 <= failure.status < 500 and failure.status not in _PASSING

    def _drop(self, destination: str, item: Item, failure: RemoteFailure) -> None:
        self._metrics.dropped.inc()
        fields = {
            "destination": destination,
            "item": _name(item),
            "reason": failure.reason,
        }
        logger.warning(
            "another server refuses this and takes everything else; dropped", extra={"fields": fields}
        )


def _name(item: Item) -> str:
    if isinstance(item, Pdu):
        return item.event_id
    kept = f" {item.kept}" if item.kept else ""
    return f"{item.edu_type}{kept}"
