# SPDX-License-Identifier: Apache-2.0
"""The rows that a room's batch writes, in the form `commit_stream` takes them (migration 0031). Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field

from homeserver.protocol.relations import Relation, may_be_bundled
from homeserver.rooms.engine.drafts import SendTransaction
from homeserver.rooms.engine.head import StateKey
from homeserver.stream.batches import Row
from storage.events import StoredEvent
from storage.packing import packed


class Changing(Struct):
    """Of what a batch will write, that of which something may be taken back."""

    current: dict[StateKey, Row] = field(default_factory=dict)
    intervals: list[Row] = field(default_factory=list)
    ended: dict[str, Row] = field(default_factory=dict)
    renewed: dict[str, Row] = field(default_factory=dict)
    summary: bool = False
    gaps: list[Row] = field(default_factory=list)
    waiting: list[Row] = field(default_factory=list)


class RowsMark(Struct, frozen=True):
    """How many rows of each kind there were, and what else there was."""

    events: int
    snapshots: int
    redactions: int
    relations: int
    received: int
    placed: int
    changing: Changing | None


class Rows(Struct):
    """What a batch will write, gathered event by event."""

    events: list[Row] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    """Of the events: the place of each among all that take a position, from 1."""
    snapshots: list[Row] = field(default_factory=list)
    current: dict[StateKey, Row] = field(default_factory=dict)
    intervals: list[Row] = field(default_factory=list)
    ended: dict[str, Row] = field(default_factory=dict)
    renewed: dict[str, Row] = field(default_factory=dict)
    redactions: list[Row] = field(default_factory=list)
    relations: list[Row] = field(default_factory=list)
    summary: bool = False
    received: list[Row] = field(default_factory=list)
    """Events from outside, which others may have waited for; without any, the next three are empty."""
    placed: list[Row] = field(default_factory=list)
    gaps: list[Row] = field(default_factory=list)
    waiting: list[Row] = field(default_factory=list)

    def mark(self) -> RowsMark:
        """A point to go back to: of what only grows its length, of the rest a copy, which messages have no use for."""
        changing: Changing | None = None
        if (
            self.current
            or self.intervals
            or self.ended
            or self.renewed
            or self.summary
            or self.gaps
            or self.waiting
        ):
            changing = Changing(
                dict(self.current),
                [dict(row) for row in self.intervals],
                dict(self.ended),
                dict(self.renewed),
                self.summary,
                list(self.gaps),
                list(self.waiting),
            )
        return RowsMark(
            len(self.events),
            len(self.snapshots),
            len(self.redactions),
            len(self.relations),
            len(self.received),
            len(self.placed),
            changing,
        )

    def roll_back(self, mark: RowsMark) -> None:
        """Undo all that was gathered since the mark."""
        del self.events[mark.events :]
        del self.offsets[mark.events :]
        del self.snapshots[mark.snapshots :]
        del self.redactions[mark.redactions :]
        del self.relations[mark.relations :]
        del self.received[mark.received :]
        del self.placed[mark.placed :]
        then = mark.changing or Changing()
        self.current, self.intervals, self.ended, self.renewed = (
            then.current,
            then.intervals,
            then.ended,
            then.renewed,
        )
        self.summary, self.gaps, self.waiting = then.summary, then.gaps, then.waiting

    def state(self, summary: Callable[[], Row]) -> dict[str, list[Row]]:
        """All but the events themselves and redactions; `summary` makes the room's, if it is wanted."""
        state: dict[str, list[Row]] = {}
        if self.snapshots or self.summary:
            state = {
                "snapshots": self.snapshots,
                "current": list(self.current.values()),
                "ended": list(self.ended.values()),
                "begun": self.intervals,
                "renewed": list(self.renewed.values()),
                "summaries": [summary()] if self.summary else [],
            }
        if self.relations:
            state["relations"] = self.relations
        if self.received:
            state["received"] = self.received
            for kind, rows in (("placed", self.placed), ("gaps", self.gaps), ("waiting", self.waiting)):
                if rows:
                    state[kind] = rows
        return state


def event_row(stored: StoredEvent, room_id: str, *, transaction: SendTransaction | None = None) -> Row:
    """A new event of that room."""
    row: dict[str, Any] = {
        "ordinal": stored.ordinal,
        "depth": stored.depth,
        "origin_server_ts": stored.origin_server_ts,
        "snapshot": stored.snapshot,
        "current_snapshot": stored.current_snapshot,
        "replaces": stored.replaces,
        "visibility": stored.visibility,
        "flags": stored.flags,
        "event_id": stored.event_id,
        "type": stored.type,
        "state_key": stored.state_key,
        "sender": stored.sender,
        "transaction": None,
        "auth_chain": _encoded(stored.auth_chain),
        "pdu": packed(
            stored.pdu,
            room_id=room_id,
            origin_server_ts=stored.origin_server_ts,
            sender=stored.sender,
            event_type=stored.type,
        ),
    }
    if stored.after_snapshot is not None:
        row["after_snapshot"] = stored.after_snapshot
    if stored.outbound:
        row["outbound"] = True
    if transaction is not None:
        row["transaction"] = transaction.key
        row["transaction_id"] = transaction.transaction_id
        row["device_id"] = transaction.device_id
    return row


def placed_row(stored: StoredEvent, offset: int) -> Row:
    """An event that was stored before, its place unknown."""
    return {
        "i": offset,
        "ordinal": stored.ordinal,
        "depth": stored.depth,
        "snapshot": stored.snapshot,
        "current_snapshot": stored.current_snapshot,
        "after_snapshot": stored.after_snapshot,
        "replaces": stored.replaces,
        "visibility": stored.visibility,
        "flags": stored.flags,
        "outbound": stored.outbound,
        "auth_chain": _encoded(stored.auth_chain),
    }


def relation_row(relation: Relation, stored: StoredEvent, content: Mapping[str, Any], offset: int) -> Row:
    """That an event relates to another."""
    return {
        "i": offset,
        "relates_to": relation.event_id,
        "depth": stored.depth,
        "ordinal": stored.ordinal,
        "sender": stored.sender,
        "type": stored.type,
        "rel_type": relation.rel_type,
        "bundled": may_be_bundled(relation, stored.type, stored.state_key, content),
    }


def current_row(key: StateKey, ordinal: int | None) -> Row:
    """A piece of the present state; no ordinal: it is no more."""
    return {"type": key[0], "state_key": key[1], "ordinal": ordinal}


def _encoded(chain: bytes | None) -> str | None:
    return None if chain is None else b64encode(chain).decode()
