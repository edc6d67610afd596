# SPDX-License-Identifier: Apache-2.0
"""Events from before this server's time, or from its gaps: placed below everything that was streamed.

They move neither extremities nor the present state, and no client is told of them, so they take no turn in the stream
(other processes are told, which may hold what a redaction among them strikes). Ordinals and states come from the room's
row, by the same compare-and-swap as any other writing of the room.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from msgspec import Struct, field

from homeserver.errors import NotFound
from homeserver.events import RoomEvent
from homeserver.protocol.events import is_create
from homeserver.protocol.relations import relation_of
from homeserver.rooms.engine import Room, RoomCache, RoomHead
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.moving import MovingHead
from homeserver.rooms.engine.queued import HeadMoved
from homeserver.rooms.engine.rows import event_row, placed_row, relation_row
from homeserver.rooms.engine.snapshots import NOTHING
from homeserver.rooms.engine.working import DUMMY
from homeserver.rooms.intake.before import state_after, state_given, state_of_all
from homeserver.rooms.intake.finding import Found, find, gap_rows, stored_event
from homeserver.rooms.intake.ground import CREATE, Ground
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from homeserver.rooms.intake.judging import misfit, refused_by_citation, refused_by_state
from homeserver.rooms.intake.knowledge import Knowledge, Lacking
from homeserver.rooms.intake.redacting import late_redactions, redact_target, strike_late
from homeserver.rooms.intake.resolving import MOST_CONTESTED
from homeserver.stream.batches import Row
from storage.events import HIDDEN, REJECTED
from storage.received import ReceivedStore
from storage.stream import AlreadyStored

logger = logging.getLogger(__name__)

MAX_TRIES = 50
MAX_LOADS = 10_000


class _Placed(Struct):
    entry: RoomEvent
    found: Found
    position: int = 0


class _Placing(Struct):
    """One attempt, in memory."""

    base: RoomHead
    ground: Ground
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    placed: dict[str, _Placed] = field(default_factory=dict)
    children: dict[str, list[RoomEvent]] = field(default_factory=dict)
    """By previous event, those of this attempt that name it."""
    left: list[Incoming] = field(default_factory=list)
    """What was not looked at to the end, because of `MOST_CONTESTED`."""

    def place_all(self, events: Sequence[Incoming]) -> None:
        """Place what can be: upwards from what is known before them, then downwards. Raises Lacking."""
        waiting = sorted(
            {incoming.event.event_id: incoming for incoming in events}.values(),
            key=lambda incoming: incoming.event.depth,
        )
        for incoming in waiting:
            self._ask_ahead(incoming)
        self.ground.check()
        before = len(waiting) + 1
        while waiting and len(waiting) < before:
            before = len(waiting)
            for _ in range(2):
                waiting = [incoming for incoming in waiting if self._is_enough or not self._place(incoming)]
                waiting.reverse()
        if self._is_enough:
            self.left = waiting

    @property
    def _is_enough(self) -> bool:
        return bool(self.placed) and self.ground.contested >= MOST_CONTESTED

    def _ask_ahead(self, incoming: Incoming) -> None:
        event, ground = incoming.event, self.ground
        for event_id in (event.event_id, *event.auth_event_ids, *event.prev_event_ids):
            ground.event(event_id)
        for ordinal, _ in ground.knowledge.awaiting(event.event_id).children:
            ground.at(ordinal)

    def _place(self, incoming: Incoming) -> bool:
        """Whether there is a verdict on it; one that says what is missing may be replaced by a later one."""
        ground, event_id = self.ground, incoming.event.event_id
        found = find(ground, incoming.event)
        reason = misfit(incoming.event, ground.head)
        if reason:
            found = Verdict(event_id, Outcome.REJECTED, reason)
        if isinstance(found, Verdict):
            self.verdicts[event_id] = found
            return True
        before = found.missing() if found.missing_auth else self._state_before(incoming, found)
        if isinstance(before, Verdict):
            self.verdicts[event_id] = before
            return before.outcome is not Outcome.MISSING
        self._store(incoming, found, before)
        return True

    def _state_before(self, incoming: Incoming, found: Found) -> int | Verdict:
        """Its snapshot."""
        ground, event = self.ground, found.event
        if is_create(event.pdu):
            return NOTHING.snapshot
        if not found.missing_prev:
            return state_of_all(ground, [e.stored.snapshot_after or 0 for e in found.previous]).snapshot
        if incoming.state_before is not None:
            return state_given(ground, incoming)
        if event.state_key is None:
            ordinals = [ordinal for ordinal, _ in ground.knowledge.awaiting(event.event_id).children]
            children = [*self.children.get(event.event_id, ()), *ground.all_at(ordinals)]
            for child in children:  # a message changes nothing: what was before its only child was before it
                if child.stored.flags & REJECTED:
                    continue  # whoever sent that may have told any state with it
                if child.event.prev_event_ids == (event.event_id,) and child.stored.snapshot is not None:
                    return int(child.stored.snapshot)
        return found.missing()

    def _store(self, incoming: Incoming, found: Found, before: int) -> None:
        ground, event = self.ground, found.event
        auth_state = ground.lens(before).auth_state(event)
        create = None if event.room_version.create_in_auth_events else auth_state.get(CREATE)
        reason = "rejected before" if found.known is not None and found.known.stored.flags & REJECTED else ""
        reason = (
            reason or refused_by_citation(event, found.cited, create) or refused_by_state(event, auth_state)
        )
        if reason:
            logger.info("rejected %r of the past: %s", event, reason)
        hidden = HIDDEN if event.type == DUMMY and event.state_key is None else 0
        stored = stored_event(ground, found, incoming.json, before, REJECTED if reason else hidden)
        entry = RoomEvent(stored, ground.head.room_id, ground.head.version, event)
        ground.add(entry)
        if not reason:
            if event.state_key is not None:
                entry.stored = stored._replace(after_snapshot=state_after(ground, entry).snapshot)
            for event_id in event.prev_event_ids:
                self.children.setdefault(event_id, []).append(entry)
            late = late_redactions(ground, entry)
            redact_target(ground, entry)
            strike_late(ground, entry, late)
        self.placed[event.event_id] = _Placed(entry, found)
        outcome = Outcome.REJECTED if reason else Outcome.ACCEPTED
        self.verdicts[event.event_id] = Verdict(
            event.event_id, outcome, reason, again=found.known is not None
        )

    # Writing.

    def number(self) -> None:
        """Give positions: below all there are, the newest uppermost."""
        head = self.ground.head
        for placed in sorted(self.placed.values(), key=lambda placed: -placed.entry.stored.depth):
            head.oldest_position -= 1
            placed.position = head.oldest_position
            placed.entry.stored = placed.entry.stored._replace(position=placed.position)

    def rows(self) -> tuple[Row, list[Row], dict[str, list[Row]], list[Row]]:
        """What `commit_history` takes."""
        head, rows = self.ground.head, self.ground.moving.rows
        events: list[Row] = []
        state: dict[str, list[Row]] = {"snapshots": rows.snapshots}
        received: list[Row] = []
        places: list[Row] = []
        relations: list[Row] = []
        gaps: list[Row] = []
        for placed in self.placed.values():
            entry, stored = placed.entry, placed.entry.stored
            if placed.found.known is None:
                events.append({**event_row(stored, head.room_id), "i": placed.position})
            else:
                places.append(placed_row(stored, placed.position))
            received.append({"event_id": stored.event_id})
            relation = relation_of(entry.event.content)
            # What is before an event that is not shown may well be.
            gaps.extend(
                row for row in gap_rows(entry, placed.found) if row["missing_event_id"] not in self.placed
            )
            if relation is not None and not stored.flags:
                relations.append(relation_row(relation, stored, entry.event.content, placed.position))
        waiting = [row for row in rows.waiting if row["redacts"] not in self.placed]
        for kind, found in (
            ("received", received),
            ("placed", places),
            ("relations", relations),
            ("gaps", gaps),
            ("waiting", waiting),
        ):
            state[kind] = [{**row, "r": 0} for row in found]
        room: Row = {
            "room": head.room,
            "expected": head.head,
            "next_ordinal": head.next_ordinal,
            "next_snapshot": head.next_snapshot,
            "oldest_position": head.oldest_position,
        }
        return room, events, state, [{**row, "r": 0} for row in rows.redactions]


class HistoryDeed:
    """Places one call's events; a turn of its own in the room's writer."""

    def __init__(
        self,
        room_id: str,
        events: Sequence[Incoming],
        *,
        cache: RoomCache,
        member_events: MemberEvents,
        received: ReceivedStore,
        learn: Callable[[RoomHead], Knowledge],
        own_server: str,
    ) -> None:
        self._room_id = room_id
        self._events = events
        self._cache = cache
        self._member_events = member_events
        self._received = received
        self._learn = learn
        self._own_server = own_server
        self.left: Sequence[Incoming] = ()
        """What of the events another turn must be taken for."""

    async def run(self) -> dict[str, Verdict]:
        """Verdicts by event id, on all but those left."""
        for _ in range(MAX_TRIES):
            room = await self._cache.get(self._room_id)
            if room is None:
                raise NotFound("Unknown room")
            try:
                placing = await self._place(room)
            except HeadMoved:
                self._cache.mark_stale(self._room_id)
                continue
            if not placing.placed:
                missing = any(v.outcome is Outcome.MISSING for v in placing.verdicts.values())
                if not missing or await self._received.head(room.key) == placing.base.head:
                    return placing.verdicts
                # What was looked up is of several moments, between which another process wrote the room.
                self._cache.mark_stale(self._room_id)
                continue
            placing.number()
            try:
                if await self._received.commit_history(*placing.rows()):
                    self._land(room, placing)
                    self.left = placing.left
                    return placing.verdicts
            except AlreadyStored:
                logger.info("history of %s was stored by another process at the same time", self._room_id)
            self._cache.mark_stale(self._room_id)
        raise TimeoutError(f"lost the race for {self._room_id} {MAX_TRIES} times")

    async def _place(self, room: Room) -> _Placing:
        head = room.head
        knowledge = self._learn(head)
        for _ in range(MAX_LOADS):
            moving = MovingHead(head, {}, self._own_server)
            placing = _Placing(head, Ground(moving, knowledge, self._member_events, room.recent))
            try:
                placing.place_all(self._events)
            except Lacking:
                await knowledge.load()
            else:
                return placing
        raise RuntimeError("no end of loading")

    def _land(self, room: Room, placing: _Placing) -> None:
        moving = placing.ground.moving
        head = placing.base.copy()
        head.head += 1
        head.next_ordinal = moving.head.next_ordinal
        head.next_snapshot = moving.head.next_snapshot
        head.oldest_position = moving.head.oldest_position
        self._cache.history_landed(room, head)
        for placed in placing.placed.values():
            if placed.found.known is not None:
                self._cache.copies.placed(room, placed.entry)
        for target, pdu, redaction in moving.struck:
            self._cache.copies.struck(room, target, pdu, redaction)
