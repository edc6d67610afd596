# SPDX-License-Identifier: Apache-2.0
"""Transactions of other servers: which were answered, and how.

Owns the table `inbound_transactions`, bounded per server by count and for all by age.
"""

from __future__ import annotations

from typing import NamedTuple

from storage.database import Database

KEPT_PER_ORIGIN = 20
"""A server sends its next transaction only when it has the answer to the last, so few can ever be asked for again."""

_BEGIN = "SELECT fresh, known FROM begin_inbound_transaction(%s, %s, %s)"
_END = "SELECT end_inbound_transaction(%s, %s, %s, %s)"
_FORGET = "DELETE FROM inbound_transactions WHERE origin = %s AND txn_id = %s AND answer IS NULL"
_SWEEP = "DELETE FROM inbound_transactions WHERE began < now() - make_interval(secs => %s)"


class Begun(NamedTuple):
    """How a transaction stands."""

    fresh: bool
    """The caller is to process it, and no one else will meanwhile."""
    answer: str | None
    """The answer (JSON) it got before. Neither: another process is at it."""


class InboundTransactionStore:
    """Remembers answers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, origin: str, txn_id: str, seconds: float) -> Begun:
        """Take the transaction on for so long, unless it was answered or another process has it."""
        row = await self._database.fetch_one(
            "inbound_transaction_begin", _BEGIN, (origin, txn_id, seconds), retry=False
        )
        assert row is not None
        return Begun(bool(row[0]), row[1])

    async def end(self, origin: str, txn_id: str, answer: str) -> None:
        """Keep the answer."""
        await self._database.fetch_one(
            "inbound_transaction_end", _END, (origin, txn_id, answer, KEPT_PER_ORIGIN), retry=True
        )

    async def forget(self, origin: str, txn_id: str) -> None:
        """It could not be processed; it may come again at once."""
        await self._database.execute("inbound_transaction_forget", _FORGET, (origin, txn_id))

    async def sweep(self, seconds: float) -> int:
        """Delete what is older than that; gives how many."""
        return await self._database.execute("inbound_transaction_sweep", _SWEEP, (seconds,))
