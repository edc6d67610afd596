# SPDX-License-Identifier: Apache-2.0
"""A head being built upon: each draft becomes an event on top of the one before, authorized, hashed and signed.

Owns turning drafts into events and rows. Synchronous and free of I/O: an event that is needed and not in memory is
named by `MissingEvents`, and whoever drives the work loads it and starts again.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from immutables import Map
from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.protocol.building import build_event, next_depth
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.errors import EventFormatError
from homeserver.protocol.event_auth import auth_types_for, check_event_auth
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import reference_hash
from homeserver.protocol.redaction import redact
from homeserver.protocol.relations import Relation, may_be_bundled, relation_of
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.unpadded_base64 import encode_base64
from homeserver.rooms.engine.drafts import Draft
from homeserver.rooms.engine.head import SUMMARY_TYPES, RoomHead, StateKey
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.snapshots import checkpoint_due, checkpoint_of
from homeserver.stream.committer import RoomBatch, Row
from storage.events import StoredEvent
from storage.rooms import Member

CREATE: StateKey = ("m.room.create", "")
MEMBER = "m.room.member"


class MissingEvents(Exception):
    """Events at these ordinals must be in memory before the work can go on."""

    def __init__(self, ordinals: Collection[int]) -> None:
        super().__init__(f"events not in memory: {ordinals}")
        self.ordinals = tuple(ordinals)


@dataclass(frozen=True, slots=True)
class Signer:
    """This server's name and the key it signs events with."""

    server_name: str
    key: SigningKey


@dataclass(slots=True)
class _Rows:
    """What a batch will write, gathered event by event."""

    events: list[Row] = field(default_factory=list)
    snapshots: list[Row] = field(default_factory=list)
    current: dict[StateKey, Row] = field(default_factory=dict)
    intervals: list[Row] = field(default_factory=list)
    ended: dict[str, Row] = field(default_factory=dict)
    renewed: dict[str, Row] = field(default_factory=dict)
    redactions: list[Row] = field(default_factory=list)
    relations: list[Row] = field(default_factory=list)
    summary: bool = False

    def copy(self) -> _Rows:
        return _Rows(
            list(self.events),
            list(self.snapshots),
            dict(self.current),
            [dict(row) for row in self.intervals],
            dict(self.ended),
            dict(self.renewed),
            list(self.redactions),
            list(self.relations),
            self.summary,
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """A point to go back to."""

    head: RoomHead
    rows: _Rows
    appended: int


class WorkingRoom:
    """A copy of a head with the events appended so far. `head` is always the room as of the last of them."""

    def __init__(
        self,
        head: RoomHead,
        *,
        signer: Signer,
        member_events: MemberEvents,
        loaded: Mapping[int, RoomEvent],
        now: Callable[[], int],
    ) -> None:
        self.head = head.copy()
        self.head.fresh_members = Map(
            (str(entry.stored.state_key), entry) for entry in loaded.values() if entry.stored.type == MEMBER
        )
        self.appended: list[RoomEvent] = []
        self.struck: list[tuple[StoredEvent, str, RoomEvent]] = []
        self._expected = head.head
        self._signer = signer
        self._member_events = member_events
        self._loaded = loaded
        self._now = now
        self._rows = _Rows()
        self._stand_ins: list[tuple[StateKey, RoomEvent, RoomEvent]] = []
        """Redacted forms of state events, each with the shared object that it stands for until the batch stands."""

    def mark(self) -> Mark:
        return Mark(self.head.copy(), self._rows.copy(), len(self.appended))

    def roll_back(self, mark: Mark) -> None:
        """Undo all that was appended since the mark."""
        self.head = mark.head
        self._rows = mark.rows
        del self.appended[mark.appended :]
        kept = set(map(id, self.appended))
        self.struck = [entry for entry in self.struck if id(entry[2]) in kept]

    def append(self, draft: Draft) -> RoomEvent:
        """Build and authorize the event of a draft on top of the head, which moves onto it.

        Raises AuthError if the room's rules reject it, EventFormatError or CanonicalJsonError if it can't be an
        event, MissingEvents.
        """
        head = self.head
        _check_storable(draft)
        auth = self._auth_entries(draft)
        event, json_bytes = self._build(draft, auth)
        check_event_auth(event, {key: entry.event for key, entry in auth.items()} | self._create_entry())
        replaced = self._replaced(event)
        stored = StoredEvent(
            room=head.room,
            ordinal=head.next_ordinal,
            position=0,
            depth=event.depth,
            origin_server_ts=event.origin_server_ts,
            snapshot=head.snapshot,
            replaces=None if replaced is None else replaced.ordinal,
            visibility=int(head.history_visibility),
            flags=0,
            event_id=event.event_id,
            type=event.type,
            state_key=event.state_key,
            sender=event.sender,
            redacted_by=None,
            transaction_id=None if draft.transaction is None else draft.transaction.transaction_id,
            device_id=None if draft.transaction is None else draft.transaction.device_id,
            auth_chain=self._chain(auth) if event.is_state else None,
            pdu=json_bytes.decode(),
            replaced_pdu=None if replaced is None else replaced.pdu,
            redaction_pdu=None,
            replaced_event_id=None if replaced is None else replaced.event_id,
            replaced_position=None if replaced is None else replaced.position,
            replaced_visibility=None if replaced is None else replaced.visibility,
        )
        entry = RoomEvent(stored, event.room_id, event.room_version, event)
        self._add(entry, draft)
        return entry

    def batch(self) -> RoomBatch:
        """What to commit."""
        head, rows = self.head, self._rows
        transactions = [row["transaction"] for row in rows.events if row["transaction"] is not None]
        state: dict[str, list[Row]] = {}
        if rows.snapshots or rows.summary:
            state = {
                "snapshots": rows.snapshots,
                "current": list(rows.current.values()),
                "ended": list(rows.ended.values()),
                "begun": rows.intervals,
                "renewed": list(rows.renewed.values()),
                "summaries": [head.summary()] if rows.summary else [],
            }
        if rows.relations:
            state["relations"] = rows.relations
        return RoomBatch(
            room={
                "room": head.room or None,
                "room_id": head.room_id,
                "version": str(head.version),
                "expected": self._expected,
                "depth": head.depth,
                "extremities": [ordinal for _, ordinal in head.extremities],
                "next_ordinal": head.next_ordinal,
                "snapshot": head.snapshot,
                "next_snapshot": head.next_snapshot,
                "snapshot_weight": head.snapshot_weight,
                "transactions": transactions or None,
            },
            events=rows.events,
            state=state,
            redactions=rows.redactions,
            users=sorted({row["user_id"] for row in rows.intervals} | rows.renewed.keys()),
        )

    def landed(self, before: int, room: int) -> RoomHead:
        """The head to publish, now that the batch stands: positions and the room's key are known."""
        head = self.head
        head.room = room
        head.head = self._expected + 1
        head.position = before + len(self.appended)
        head.fresh_members = Map()
        for key, stand_in, shared in self._stand_ins:
            if head.state.get(key) is stand_in:
                head.state = head.state.set(key, shared)
        for position, entry in enumerate(self.appended, before + 1):
            if entry.stored.room != room:
                entry.stored = entry.stored._replace(room=room)
            entry.place(position)
        for row in self._rows.intervals:
            if row["until_i"] is None:
                member = head.members[row["user_id"]]
                head.members = head.members.set(row["user_id"], member._replace(since=before + row["i"]))
        return head

    # Building.

    def _build(self, draft: Draft, auth: dict[StateKey, RoomEvent]) -> tuple[Event, bytes]:
        head, version = self.head, self.head.version
        event_id, hashes = None, {}
        if version.chooses_event_ids:
            event_id = f"${secrets.token_urlsafe(18)}:{self._signer.server_name}"
            hashes = self._reference_hashes(auth)
        built = build_event(
            room_version=version,
            room_id=None if draft.type == CREATE[0] and version.room_id_is_create_hash else head.room_id,
            event_type=draft.type,
            state_key=draft.state_key,
            sender=draft.sender,
            content=dict(draft.content),
            prev_event_ids=[event_id for event_id, _ in head.extremities],
            auth_event_ids=[entry.stored.event_id for entry in auth.values()],
            depth=next_depth((head.depth,) if head.extremities else (), version),
            origin_server_ts=self._now() if draft.origin_server_ts is None else draft.origin_server_ts,
            server_name=self._signer.server_name,
            signing_key=self._signer.key,
            redacts=None if draft.redacts is None else draft.redacts.event_id,
            event_id=event_id,
            reference_hashes=hashes,
        )
        return built.event, built.json_bytes

    def _reference_hashes(self, auth: dict[StateKey, RoomEvent]) -> dict[str, str]:
        known = {entry.stored.event_id: entry for entry in (*auth.values(), *self.appended)}
        missing = []
        for event_id, ordinal in self.head.extremities:
            if event_id not in known:
                entry = self._in_memory(ordinal)
                if entry is None:
                    missing.append(ordinal)
                else:
                    known[event_id] = entry
        if missing:
            raise MissingEvents(missing)
        wanted = {event_id for event_id, _ in self.head.extremities}
        wanted.update(entry.stored.event_id for entry in auth.values())
        return {
            event_id: encode_base64(reference_hash(known[event_id].event.pdu, self.head.version))
            for event_id in wanted
        }

    def _auth_entries(self, draft: Draft) -> dict[StateKey, RoomEvent]:
        """The state events that the draft's event must cite."""
        found: dict[StateKey, RoomEvent] = {}
        missing: list[int] = []
        for key in auth_types_for(
            self.head.version, draft.type, draft.sender, draft.state_key, draft.content
        ):
            if key[0] == MEMBER:
                entry = self._member_event(key[1], missing)
            else:
                entry = self.head.state.get(key)
            if entry is not None:
                found[key] = entry
        if missing:
            raise MissingEvents(missing)
        return found

    def _create_entry(self) -> dict[StateKey, Event]:
        create = self.head.state.get(CREATE)
        return {} if create is None else {CREATE: create.event}

    def _member_event(self, user_id: str, missing: list[int]) -> RoomEvent | None:
        member = self.head.members.get(user_id)
        if member is None:
            return None
        fresh = self.head.fresh_members.get(user_id)
        if fresh is not None and fresh.stored.ordinal == member.ordinal:
            return fresh
        entry = self._in_memory(member.ordinal)
        if entry is None:
            missing.append(member.ordinal)
        return entry

    def _in_memory(self, ordinal: int) -> RoomEvent | None:
        return self._loaded.get(ordinal) or self._member_events.peek(self.head.room, ordinal)

    def _replaced(self, event: Event) -> StoredEvent | None:
        """The state event that this one replaces."""
        if event.state_key is None:
            return None
        if event.type == MEMBER:
            missing: list[int] = []
            entry = self._member_event(event.state_key, missing)
            if missing:
                raise MissingEvents(missing)
        else:
            entry = self.head.state.get((event.type, event.state_key))
        return None if entry is None else entry.stored

    @staticmethod
    def _chain(auth: dict[StateKey, RoomEvent]) -> bytes:
        chain = BitMap()
        for entry in auth.values():
            chain |= entry.auth_chain
            chain.add(entry.stored.ordinal)
        return bytes(chain.serialize())

    # Moving the head.

    def _add(self, entry: RoomEvent, draft: Draft) -> None:
        stored = entry.stored
        head = self.head
        self.appended.append(entry)
        self._rows.events.append(_event_row(stored, draft))
        if not head.room_id:
            head.room_id = entry.room_id
        head.depth = stored.depth
        head.extremities = ((stored.event_id, stored.ordinal),)
        head.next_ordinal += 1
        if stored.state_key is not None:
            if stored.type == MEMBER:
                self._move_member(entry, draft)
            else:
                self._move_state(entry)
            self._snapshot(stored)
        if draft.redacts is not None:
            self._strike(draft.redacts, entry)
        relation = relation_of(draft.content)
        if relation is not None:
            self._rows.relations.append(_relation_row(relation, stored, draft, len(self.appended)))

    def _move_state(self, entry: RoomEvent) -> None:
        stored = entry.stored
        assert stored.state_key is not None
        key = (stored.type, stored.state_key)
        self.head.state = self.head.state.set(key, entry)
        if key in (("m.room.power_levels", ""), CREATE):
            self.head.forget_derived()
        self._rows.current[key] = _current_row(stored)
        self._rows.summary |= stored.type in SUMMARY_TYPES

    def _move_member(self, entry: RoomEvent, draft: Draft) -> None:
        stored, head, rows = entry.stored, self.head, self._rows
        user_id = stored.state_key
        assert user_id is not None
        membership = str(draft.content["membership"])
        before = head.members.get(user_id)
        was = None if before is None else before.membership
        head.joined_count += (membership == "join") - (was == "join")
        head.invited_count += (membership == "invite") - (was == "invite")
        head.fresh_members = head.fresh_members.set(user_id, entry)
        rows.current[MEMBER, user_id] = _current_row(stored)
        rows.summary |= membership != was
        offset = len(self.appended)
        here = next(
            (row for row in rows.intervals if row["user_id"] == user_id and row["until_i"] is None), None
        )
        if before is not None and was == membership and membership != "invite":
            head.members = head.members.set(user_id, before._replace(ordinal=stored.ordinal))
            if here is not None:
                here["ordinal"] = stored.ordinal
            else:
                rows.renewed[user_id] = {"user_id": user_id, "ordinal": stored.ordinal}
            return
        head.members = head.members.set(user_id, Member(membership, stored.ordinal, 0))
        if here is not None:
            here["until_i"] = offset
        elif before is not None:
            rows.ended[user_id] = {"user_id": user_id, "i": offset}
        rows.intervals.append(
            {
                "user_id": user_id,
                "i": offset,
                "until_i": None,
                "membership": membership,
                "ordinal": stored.ordinal,
                "sender": stored.sender,
                "stripped_state": draft.stripped_state,
            }
        )

    def _snapshot(self, stored: StoredEvent) -> None:
        head = self.head
        removed = [] if stored.replaces is None else [stored.replaces]
        weight = head.snapshot_weight + 1 + len(removed)
        size = len(head.state) + len(head.members)
        checkpoint = None
        if checkpoint_due(weight, size):
            checkpoint = self._checkpoint()
            weight = 0
        self._rows.snapshots.append(
            {
                "snapshot": head.next_snapshot,
                "parent": head.snapshot or None,
                "added": [stored.ordinal],
                "removed": removed,
                "checkpoint": checkpoint,
            }
        )
        head.snapshot = head.next_snapshot
        head.next_snapshot += 1
        head.snapshot_weight = weight

    def _checkpoint(self) -> str:
        ordinals = [entry.stored.ordinal for entry in self.head.state.values()]
        ordinals.extend(member.ordinal for member in self.head.members.values())
        return b64encode(checkpoint_of(ordinals)).decode()

    def _strike(self, target: StoredEvent, redaction: RoomEvent) -> None:
        if target.redacted_by is not None or any(
            row["ordinal"] == target.ordinal for row in self._rows.redactions
        ):
            return
        version = self.head.version
        whole = orjson.loads(target.pdu)
        relation = relation_of(whole["content"])
        pdu = encode_canonical(redact(whole, version), strict=version.strict_canonical_json).decode()
        self._rows.redactions.append(
            {
                "ordinal": target.ordinal,
                "redacted_by": redaction.stored.event_id,
                "pdu": pdu,
                "relates_to": None if relation is None else relation.event_id,
            }
        )
        self.struck.append((target, pdu, redaction))
        if target.state_key is not None:
            self._strike_state((target.type, target.state_key), target.ordinal, pdu, redaction)

    def _strike_state(self, key: StateKey, ordinal: int, pdu: str, redaction: RoomEvent) -> None:
        """What follows in this batch, and the summary, see the redacted form; readers do when the batch stands."""
        self._rows.summary = True
        current = self.head.state.get(key)
        if current is not None and current.stored.ordinal == ordinal:
            struck = RoomEvent(current.stored, current.room_id, current.version)
            struck.redact(pdu, redaction.stored)
            self._stand_ins.append((key, struck, current))
            self.head.state = self.head.state.set(key, struck)
            self.head.forget_derived()


def _check_storable(draft: Draft) -> None:
    """Refuse NUL where Postgres would: one such event would take the whole group commit down."""
    transaction_id = "" if draft.transaction is None else draft.transaction.transaction_id
    if any("\0" in text for text in (draft.type, draft.state_key or "", transaction_id)):
        raise EventFormatError("NUL in an event's type, state key or transaction id")


def _event_row(stored: StoredEvent, draft: Draft) -> Row:
    row: dict[str, Any] = {
        "ordinal": stored.ordinal,
        "depth": stored.depth,
        "origin_server_ts": stored.origin_server_ts,
        "snapshot": stored.snapshot,
        "replaces": stored.replaces,
        "visibility": stored.visibility,
        "flags": stored.flags,
        "event_id": stored.event_id,
        "type": stored.type,
        "state_key": stored.state_key,
        "sender": stored.sender,
        "transaction": None,
        "auth_chain": None if stored.auth_chain is None else b64encode(stored.auth_chain).decode(),
        "pdu": stored.pdu,
    }
    if draft.transaction is not None:
        row["transaction"] = draft.transaction.key
        row["transaction_id"] = draft.transaction.transaction_id
        row["device_id"] = draft.transaction.device_id
    return row


def _relation_row(relation: Relation, stored: StoredEvent, draft: Draft, offset: int) -> Row:
    return {
        "i": offset,
        "relates_to": relation.event_id,
        "depth": stored.depth,
        "ordinal": stored.ordinal,
        "sender": stored.sender,
        "type": stored.type,
        "rel_type": relation.rel_type,
        "bundled": may_be_bundled(relation, stored.type, stored.state_key, draft.content),
    }


def _current_row(stored: StoredEvent) -> Row:
    return {"type": stored.type, "state_key": stored.state_key, "ordinal": stored.ordinal}
