# SPDX-License-Identifier: Apache-2.0
"""Events as they go to other servers: the stored JSON and what is needed to choose among them, and nothing besides.

For answers of tens of thousands of events, where `storage/events.py` would read three rows for each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from storage.database import Database, Prepared
from storage.packing import pdu_of


class StoredPdu(NamedTuple):
    """An event: its canonical JSON without `unsigned`, and the ordinals of its auth chain as a roaring bitmap."""

    ordinal: int
    type: str
    state_key: str | None
    auth_chain: bytes | None
    pdu: str


class StoredId(NamedTuple):
    """An event by its id alone, with the ordinals of its auth chain as a roaring bitmap."""

    ordinal: int
    event_id: str
    auth_chain: bytes | None


_BY_ORDINALS = Prepared(
    f"""SELECT e.ordinal, e.type, e.state_key, e.auth_chain, {pdu_of("e")}
    FROM unnest(%s::int[]) AS w(ordinal) JOIN events e ON e.room = %s AND e.ordinal = w.ordinal
    WHERE (%s::text[] IS NULL OR e.type <> 'm.room.member' OR e.state_key = ANY (%s::text[]))
      AND e.flags & 1 = 0"""  # noqa: S608
)

_IDS_BY_ORDINALS = Prepared(
    """SELECT e.ordinal, e.event_id, e.auth_chain
    FROM unnest(%s::int[]) AS w(ordinal) JOIN events e ON e.room = %s AND e.ordinal = w.ordinal
    WHERE e.flags & 1 = 0"""
)


class PduStore:
    """Reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_ordinals(
        self, room: int, ordinals: Iterable[int], members: Collection[str] | None = None
    ) -> list[StoredPdu]:
        """The events at those ordinals but for rejected ones; of member events only those of `members`, if given."""
        users = None if members is None else list(members)
        rows = await self._database.fetch(
            "pdus_by_ordinals", _BY_ORDINALS, (list(ordinals), room, users, users)
        )
        return [StoredPdu._make(row) for row in rows]

    async def ids_by_ordinals(self, room: int, ordinals: Iterable[int]) -> list[StoredId]:
        """The same events, without their JSON."""
        rows = await self._database.fetch("pdu_ids_by_ordinals", _IDS_BY_ORDINALS, (list(ordinals), room))
        return [StoredId._make(row) for row in rows]
