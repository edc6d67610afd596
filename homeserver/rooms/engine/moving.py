# SPDX-License-Identifier: Apache-2.0
"""A copy of a head on its way forward: events put on it one by one, and the rows that write them.

Owns what an event does to the head once it is decided that it stands: state, members, snapshots, redactions. Whether it
stands is decided by those who put it there: `working` for events of ours, `rooms.intake` for those of other servers.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence

import orjson
from immutables import Map
from msgspec import Struct
from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.events import Event
from homeserver.protocol.redaction import redact
from homeserver.protocol.relations import relation_of
from homeserver.rooms.engine.drafts import SendTransaction
from homeserver.rooms.engine.head import DERIVED_FROM, SUMMARY_TYPES, RoomHead, StateKey, host_of
from homeserver.rooms.engine.news import lines_of
from homeserver.rooms.engine.rows import Rows, RowsMark, current_row, event_row, placed_row, relation_row
from homeserver.rooms.engine.snapshots import NOTHING, State, checkpoint_due, checkpoint_of
from homeserver.stream.batches import RoomBatch, Row
from homeserver.stream.remote_members import line_of
from storage.events import StoredEvent
from storage.rooms import Member

MEMBER = "m.room.member"


class MissingState(Exception):
    """A stored state must be known before the work can go on."""

    def __init__(self, snapshot: int) -> None:
        super().__init__(f"state {snapshot} is not in memory")
        self.snapshot = snapshot


class Mark(Struct, frozen=True):
    """A point to go back to."""

    head: RoomHead
    rows: RowsMark
    appended: int


class MovingHead:
    """See the module. `head` is always the room as of the last event put on it."""

    def __init__(self, head: RoomHead, loaded: Mapping[int, RoomEvent], own_server: str) -> None:
        self.head = head.copy()
        self.head.fresh_members = Map(
            (str(entry.stored.state_key), entry) for entry in loaded.values() if entry.stored.type == MEMBER
        )
        self.rows = Rows()
        self.appended: list[RoomEvent] = []
        """Every event that takes a position, in their order; those that are not shown (`flags`), too."""
        self.struck: list[tuple[StoredEvent, str, RoomEvent]] = []
        self._expected = head.head
        self._first_snapshot = head.next_snapshot
        self._states: dict[int, State] = {NOTHING.snapshot: NOTHING}
        self._own_server = own_server
        self._stand_ins: list[tuple[StateKey, RoomEvent, RoomEvent]] = []
        """Redacted forms of state events, each with the shared object that it stands for until the batch stands."""

    def mark(self) -> Mark:
        return Mark(self.head.copy(), self.rows.mark(), len(self.appended))

    def roll_back(self, mark: Mark) -> None:
        """Undo all that was put on since the mark."""
        self.head = mark.head
        self.rows.roll_back(mark.rows)
        del self.appended[mark.appended :]
        self._states = {n: state for n, state in self._states.items() if n < mark.head.next_snapshot}
        kept = set(map(id, self.appended))
        self.struck = [entry for entry in self.struck if id(entry[2]) in kept]

    @property
    def base(self) -> int:
        """The counter of the head that all of this goes on."""
        return self._expected

    @property
    def offset(self) -> int:
        """Of the newest event put on, among all that take a position."""
        return len(self.appended)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.appended

    def batch(self) -> RoomBatch:
        """What to commit."""
        head, rows = self.head, self.rows
        transactions = [row["transaction"] for row in rows.events if row["transaction"] is not None]
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
            state=rows.state(head.summary),
            redactions=rows.redactions,
            users=self._users(),
            size=len(self.appended),
            offsets=rows.offsets,
            news=self._news,
        )

    def _news(self, start: int) -> Sequence[str]:
        lines = lines_of(self.head, self._expected, start, self.rows, self.appended)
        if not lines and (remote := self.remote):
            return (line_of(self.head.room, remote),)
        return lines

    def _users(self) -> list[str]:
        """Our users whose own list of rooms changes."""
        rows, own = self.rows, self._own_server
        if not (rows.intervals or rows.renewed or rows.ended):
            return []
        users = {row["user_id"] for row in rows.intervals} | rows.renewed.keys() | rows.ended.keys()
        return sorted(user for user in users if host_of(user) == own)

    @property
    def remote(self) -> Sequence[str]:
        """Users of other servers who come or go."""
        rows, own = self.rows, self._own_server
        if not (rows.intervals or rows.ended):
            return ()
        users = {row["user_id"] for row in rows.intervals} | rows.ended.keys()
        return [user for user in users if host_of(user) != own]

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
        places = {entry.stored.ordinal: place for place, entry in enumerate(self.appended, before + 1)}
        for entry in self.appended:
            stored = entry.stored
            if stored.room != room:
                entry.stored = stored._replace(room=room)
            entry.place(places[stored.ordinal], places.get(stored.replaces or 0))
        for row in self.rows.intervals:
            if row["until_i"] is None:
                member = head.members[row["user_id"]]
                head.members = head.members.set(row["user_id"], member._replace(since=before + row["i"]))
        return head

    # Putting an event on.

    def add_own(
        self,
        entry: RoomEvent,
        *,
        transaction: SendTransaction | None,
        stripped_state: str | None,
        rest: tuple[tuple[str, int], ...],
    ) -> None:
        """An event of ours goes on top of the extremities but for `rest`; the state before it is the present one."""
        stored, head = entry.stored, self.head
        self.appended.append(entry)
        elsewhere = head.has_other_hosts(self._own_server)
        if not head.room_id:
            head.room_id = entry.room_id
        head.depth = max(head.depth, stored.depth)
        head.extremities = (*rest, (stored.event_id, stored.ordinal))
        head.next_ordinal += 1
        if stored.state_key is not None:
            self.move_state(entry, stripped_state)
            self.snapshot(stored)
            if stored.type == MEMBER:
                elsewhere |= host_of(stored.state_key) != self._own_server or head.has_other_hosts(
                    self._own_server
                )
        head.resolved_from = None
        if elsewhere:
            entry.stored = stored = stored._replace(outbound=True)
        self.rows.events.append(event_row(stored, head.room_id, transaction=transaction))
        self.rows.offsets.append(len(self.appended))
        self.relate(entry)

    def sign(self, entry: RoomEvent, event: Event, pdu: str) -> None:
        """One of ours gets a further signature, by which it becomes no other event."""
        entry.sign(event, pdu)
        for row in self.rows.events:
            if row["ordinal"] == entry.stored.ordinal:
                row["pdu"] = pdu

    def add_received(self, entry: RoomEvent) -> None:
        """An event from outside takes the next position. It moves nothing by itself."""
        self.appended.append(entry)

    def record_received(self, entry: RoomEvent, *, known: bool) -> None:
        """Write the newest event, now that it is known what it did; `known` if it has a row already."""
        stored, rows = entry.stored, self.rows
        rows.received.append({"event_id": stored.event_id})
        if rows.gaps or rows.waiting:  # of what came earlier in the batch
            rows.gaps = [row for row in rows.gaps if row["missing_event_id"] != stored.event_id]
            rows.waiting = [row for row in rows.waiting if row["redacts"] != stored.event_id]
        if known:
            self.rows.placed.append(placed_row(stored, self.offset))
        else:
            self.rows.events.append(event_row(stored, self.head.room_id))
            self.rows.offsets.append(self.offset)

    def take_ordinal(self) -> int:
        """An ordinal for a new event."""
        ordinal = self.head.next_ordinal
        self.head.next_ordinal += 1
        return ordinal

    def relate(self, entry: RoomEvent) -> None:
        """The newest event's relation to another, if it has one."""
        content = entry.event.content
        relation = relation_of(content)
        if relation is not None:
            self.rows.relations.append(relation_row(relation, entry.stored, content, self.offset))

    # What the newest event does to the state.

    def move_state(self, entry: RoomEvent, stripped_state: str | None = None) -> None:
        """A state event becomes part of the present state."""
        stored = entry.stored
        assert stored.state_key is not None
        if stored.type == MEMBER:
            self._move_member(entry, stripped_state)
            return
        key = (stored.type, stored.state_key)
        self.head.state = self.head.state.set(key, entry)
        if key in DERIVED_FROM:
            self.head.forget_derived()
        self.rows.current[key] = current_row(key, stored.ordinal)
        self.rows.summary |= stored.type in SUMMARY_TYPES

    def drop_state(self, key: StateKey) -> None:
        """A piece of the present state is no more."""
        head, rows = self.head, self.rows
        rows.current[key] = current_row(key, None)
        if key[0] != MEMBER:
            head.state = head.state.delete(key)
            if key in DERIVED_FROM:
                head.forget_derived()
            rows.summary |= key[0] in SUMMARY_TYPES
            return
        user_id = key[1]
        head.count_member(user_id, head.members[user_id].membership, None)
        head.members = head.members.delete(user_id)
        head.fresh_members = (
            head.fresh_members.delete(user_id) if user_id in head.fresh_members else head.fresh_members
        )
        rows.summary = True
        self._end_interval(user_id)

    def _end_interval(self, user_id: str) -> None:
        rows = self.rows
        here = next(
            (row for row in rows.intervals if row["user_id"] == user_id and row["until_i"] is None), None
        )
        if here is not None:
            here["until_i"] = self.offset
        else:
            rows.ended[user_id] = {"user_id": user_id, "i": self.offset}

    def _move_member(self, entry: RoomEvent, stripped_state: str | None) -> None:
        stored, head, rows = entry.stored, self.head, self.rows
        user_id = stored.state_key
        assert user_id is not None
        membership = str(entry.event.content["membership"])
        before = head.members.get(user_id)
        was = None if before is None else before.membership
        head.count_member(user_id, was, membership)
        head.fresh_members = head.fresh_members.set(user_id, entry)
        rows.current[MEMBER, user_id] = current_row((MEMBER, user_id), stored.ordinal)
        rows.summary |= membership != was
        if before is not None and was == membership and membership != "invite":
            head.members = head.members.set(user_id, before._replace(ordinal=stored.ordinal))
            self._renew(user_id, stored.ordinal)
            return
        head.members = head.members.set(user_id, Member(membership, stored.ordinal, 0))
        if before is not None:
            self._end_interval(user_id)
        rows.intervals.append(
            {
                "user_id": user_id,
                "i": self.offset,
                "until_i": None,
                "membership": membership,
                "ordinal": stored.ordinal,
                "sender": stored.sender,
                "stripped_state": stripped_state,
            }
        )

    def _renew(self, user_id: str, ordinal: int) -> None:
        for row in self.rows.intervals:
            if row["user_id"] == user_id and row["until_i"] is None:
                row["ordinal"] = ordinal
                return
        self.rows.renewed[user_id] = {"user_id": user_id, "ordinal": ordinal}

    def add_snapshot(
        self,
        parent: int,
        added: Iterable[int],
        removed: Iterable[int],
        checkpoint: bytes | None,
    ) -> int:
        """A state of the room, by what it differs from another, or as a whole; its number."""
        head = self.head
        snapshot = head.next_snapshot
        head.next_snapshot += 1
        self.rows.snapshots.append(
            {
                "snapshot": snapshot,
                "parent": parent or None,
                "added": list(added),
                "removed": list(removed),
                "checkpoint": None if checkpoint is None else b64encode(checkpoint).decode(),
            }
        )
        return snapshot

    def snapshot(self, stored: StoredEvent) -> None:
        """The newest event, a state event, made the present state another: a snapshot of it."""
        head = self.head
        removed = [] if stored.replaces is None else [stored.replaces]
        weight = head.snapshot_weight + 1 + len(removed)
        checkpoint = None
        if checkpoint_due(weight, len(head.state) + len(head.members)):
            ordinals = [entry.stored.ordinal for entry in head.state.values()]
            ordinals.extend(member.ordinal for member in head.members.values())
            checkpoint = checkpoint_of(ordinals)
            weight = 0
        head.snapshot = self.add_snapshot(head.snapshot, [stored.ordinal], removed, checkpoint)
        head.snapshot_weight = weight

    # States that are not the present one.

    @property
    def states(self) -> dict[int, State]:
        """Those that this batch makes, as far as they were asked for."""
        return {n: state for n, state in self._states.items() if n >= self._first_snapshot}

    def state(self, snapshot: int) -> State:
        """A state that this batch made, or that `keep` was told of. Raises MissingState for a stored one."""
        steps: list[Row] = []
        known = self._states.get(snapshot)
        while known is None and snapshot >= self._first_snapshot:
            row = self.rows.snapshots[snapshot - self._first_snapshot]
            steps.append(row)
            snapshot = row["parent"] or 0
            known = self._states.get(snapshot)
        if known is None:
            raise MissingState(snapshot)
        for row in reversed(steps):
            ordinals = (known.ordinals - BitMap(row["removed"])) | BitMap(row["added"])
            weight = known.weight + len(row["added"]) + len(row["removed"])
            known = State(row["snapshot"], ordinals, 0 if row["checkpoint"] is not None else weight)
            self._states[known.snapshot] = known
        return known

    def keep(self, state: State) -> None:
        """Remember a stored state that others of this batch build on."""
        self._states[state.snapshot] = state

    def make_state(self, ordinals: BitMap, near: Iterable[State]) -> State:
        """A state of those ordinals: one of `near` if it is the same, else a new one next to the nearest of them."""
        nearest = min(near, key=lambda state: len(state.ordinals ^ ordinals))
        added, removed = ordinals - nearest.ordinals, nearest.ordinals - ordinals
        if not added and not removed:
            return nearest
        weight = nearest.weight + len(added) + len(removed)
        checkpoint = None
        if checkpoint_due(weight, len(ordinals)):
            checkpoint, weight = checkpoint_of(ordinals), 0
            if len(added) + len(removed) > len(ordinals):
                added = removed = BitMap()
        state = State(self.add_snapshot(nearest.snapshot, added, removed, checkpoint), ordinals, weight)
        self._states[state.snapshot] = state
        return state

    # Redactions.

    def strike(self, target: StoredEvent, redaction: RoomEvent) -> None:
        """The redaction applies to its target."""
        if target.redacted_by is not None or any(
            row["ordinal"] == target.ordinal for row in self.rows.redactions
        ):
            return
        version = self.head.version
        whole = orjson.loads(target.pdu)
        relation = relation_of(whole["content"])
        pdu = encode_canonical(redact(whole, version), strict=version.strict_canonical_json).decode()
        self.rows.redactions.append(
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
        self.rows.summary = True
        current = self.head.state.get(key)
        if current is not None and current.stored.ordinal == ordinal:
            struck = RoomEvent(current.stored, current.room_id, current.version)
            struck.redact(pdu, redaction.stored)
            self._stand_ins.append((key, struck, current))
            self.head.state = self.head.state.set(key, struck)
            self.head.forget_derived()

    @property
    def placed(self) -> list[RoomEvent]:
        """Those of the events that were known before as outliers: memory may hold them so."""
        known = {row["ordinal"] for row in self.rows.placed}
        return [entry for entry in self.appended if entry.stored.ordinal in known] if known else []
