# SPDX-License-Identifier: Apache-2.0
"""One event from outside put on a moving head: known? judged, stored as what it turned out to be, the room moved on.

Server-server API, "Checks performed on receipt of a PDU", "Rejection", "Soft failure". Synchronous: whatever is not in
memory raises `Lacking`; whoever drives the work then undoes what was begun, loads, and begins again.
"""

from __future__ import annotations

import logging

from msgspec import Struct

from homeserver.events import RoomEvent
from homeserver.protocol.events import Event, is_create
from homeserver.protocol.policy_servers import PolicyServer, needs_recommendation
from homeserver.rooms.engine.head import StateKey, host_of
from homeserver.rooms.engine.moving import MEMBER
from homeserver.rooms.engine.working import DUMMY
from homeserver.rooms.intake.advancing import advance, builders
from homeserver.rooms.intake.before import state_after, state_given, state_of_all
from homeserver.rooms.intake.finding import Found, find, gap_rows, stored_event
from homeserver.rooms.intake.ground import CREATE, Ground, Lens
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from homeserver.rooms.intake.judging import misfit, refused_by_citation, refused_by_state
from homeserver.rooms.intake.redacting import late_redactions, redact_target, strike_late
from homeserver.rooms.intake.resolving import resolve_states
from homeserver.rooms.stripped_state import stripped_state
from storage.events import HIDDEN, REJECTED, SOFT_FAILED

logger = logging.getLogger(__name__)


class Unasked(Struct, frozen=True):
    """An event that everything but the policy server's signature speaks for."""

    policy_server: PolicyServer
    event: Event


class Receiving:
    """Of one attempt at a batch."""

    def __init__(self, ground: Ground, own_server: str, *, outbound: bool) -> None:
        self._ground = ground
        self._own_server = own_server
        self._outbound = outbound
        self.unasked: list[Unasked] = []
        """Events that were taken for good although nobody asked the room's policy server about them yet."""

    def receive(self, incoming: Incoming) -> Verdict:
        """Judge the event and put it where it belongs. Raises Lacking."""
        ground, event = self._ground, incoming.event
        reason = misfit(event, ground.head)
        if reason:
            return Verdict(event.event_id, Outcome.REJECTED, reason)
        if is_create(event.pdu):  # the room's own; where its place is not known, that is in the past
            return Verdict(event.event_id, Outcome.KNOWN)
        found = find(ground, event)
        if isinstance(found, Verdict):
            return found
        if found.missing_auth or (found.missing_prev and incoming.state_before is None):
            return found.missing()
        before = self._state_before(incoming, found)
        if isinstance(before, Verdict):
            return before
        flags, reason = self._judge(found, before)
        if not flags & (REJECTED | SOFT_FAILED):
            reason = self._not_recommended(incoming, found)
            flags |= SOFT_FAILED if reason else 0
        self._store(incoming, found, before, flags)
        if flags & REJECTED:
            return Verdict(event.event_id, Outcome.REJECTED, reason)
        outcome = Outcome.SOFT_FAILED if flags & SOFT_FAILED else Outcome.ACCEPTED
        return Verdict(event.event_id, outcome, reason, again=found.known is not None)

    def _state_before(self, incoming: Incoming, found: Found) -> int | Verdict:
        """Its snapshot, or what is missing of it."""
        states = [entry.stored.snapshot_after or 0 for entry in found.previous]
        if found.missing_prev:
            given = state_given(self._ground, incoming)
            if isinstance(given, Verdict) or not states:
                return given
            # What is told of the one branch must stand up to what is known of the others: else who names the room's end
            # and an event that is nowhere could put any earlier state in place of the present one.
            states.append(given)
        elif self._continues(found):
            return self._ground.head.snapshot
        return state_of_all(self._ground, states).snapshot

    def _continues(self, found: Found) -> bool:
        """Whether the event stands on all of the room's extremities and nothing else."""
        ends = {ordinal for _, ordinal in self._ground.head.extremities}
        return not found.missing_prev and {entry.stored.ordinal for entry in found.previous} == ends

    def _judge(self, found: Found, before: int) -> tuple[int, str]:
        """Flags, and why."""
        ground, event = self._ground, found.event
        auth_state = self._auth_state(found, ground.lens(before))
        if found.known is not None and found.known.stored.flags & REJECTED:
            return REJECTED, "rejected before"
        create = None if event.room_version.create_in_auth_events else auth_state.get(CREATE)
        reason = refused_by_citation(event, found.cited, create) or refused_by_state(event, auth_state)
        if reason:
            logger.info("rejected %r: %s", event, reason)
            return REJECTED, reason
        hidden = HIDDEN if event.type == DUMMY and event.state_key is None else 0
        if before != ground.head.snapshot:
            reason = self._refused_by_present(found, before)
            if reason:
                logger.info("soft-failed %r: %s", event, reason)
                return SOFT_FAILED | hidden, reason
        return hidden, ""

    def _not_recommended(self, incoming: Incoming, found: Found) -> str:
        """Why the room's policy server, if it uses one now, does not let it be (check 7).

        Nobody is asked about an event that fails another check. Its signature must be of the event that is stored: in
        versions 1 and 2 another may come under the same id.
        """
        policy_server, event = self._ground.head.policy_server, found.event
        if policy_server is None or not needs_recommendation(event.type, event.state_key):
            return ""
        if policy_server.verifies(event, policy_server.signature_on(incoming.event)):
            return ""
        asked = incoming.asked
        if asked is None or asked.policy_server != policy_server:
            self.unasked.append(Unasked(policy_server, event))
            return ""
        reason = asked.refusal or "the policy server's signature is of another event"
        logger.info("soft-failed %r: %s", event, reason)
        return reason

    def _refused_by_present(self, found: Found, before: int) -> str:
        """Why the present state does not let it be, nor the one that would be with the event's branch added: somebody
        who joined where events are missing here is known by that branch alone."""
        ground = self._ground
        reason = refused_by_state(found.event, self._auth_state(found, ground.lens(ground.head.snapshot)))
        if not reason:
            return ""
        ground.want_state(before)
        states = [ground.state(ground.head.snapshot), ground.state(before)]
        together = Lens(ground, resolve_states(ground, states))
        return refused_by_state(found.event, self._auth_state(found, together))

    def _auth_state(self, found: Found, lens: Lens) -> dict[StateKey, Event]:
        """What a state says of whether the event may be.

        While most members are not known (`RoomHead.partial_servers`), those that the event cites stand in for them; it
        is looked at again when they are (`rooms.arrival.completing`).
        """
        state = lens.auth_state(found.event)
        if self._ground.head.partial_servers is None:
            return state
        cited = (entry.event for entry in found.cited if not entry.stored.flags & REJECTED)
        return {**{e.state_tuple: e for e in cited if e.type == MEMBER and e.state_key is not None}, **state}

    def _store(self, incoming: Incoming, found: Found, before: int, flags: int) -> None:
        ground, moving = self._ground, self._ground.moving
        entry = self._entry(incoming, found, before, flags)
        continues = self._continues(found)
        moving.add_received(entry)
        ground.add(entry)
        stands = not flags & (REJECTED | SOFT_FAILED)
        after: int | None = None
        current = None
        if stands and continues and not builders(ground, entry):
            self._continue(entry)
            current = ground.head.snapshot
        else:
            after = before
            if entry.stored.state_key is not None and not flags & REJECTED:
                after = state_after(ground, entry).snapshot
            if stands:
                advance(ground, entry, found.previous, after, self._stripped_state(entry, before))
                current = ground.head.snapshot
        entry.stored = entry.stored._replace(current_snapshot=current, after_snapshot=after)
        late = late_redactions(ground, entry)
        moving.record_received(entry, known=found.known is not None)
        if stands:
            moving.rows.gaps.extend(gap_rows(entry, found, moving.offset))
            moving.relate(entry)
            redact_target(ground, entry)
        strike_late(ground, entry, late)

    def _continue(self, entry: RoomEvent) -> None:
        """The usual case: on top of everything, so that what it does to the state is all that happens to it."""
        moving, stored = self._ground.moving, entry.stored
        if stored.state_key is not None:
            stripped = self._stripped_state(entry, self._ground.head.snapshot)
            moving.move_state(entry, stripped)
            moving.snapshot(stored)
        moving.head.depth = stored.depth
        moving.head.extremities = ((stored.event_id, stored.ordinal),)
        moving.head.resolved_from = None

    def _stripped_state(self, entry: RoomEvent, before: int) -> str | None:
        """What a user of ours is shown of the room with an invite or a knock."""
        stored = entry.stored
        if stored.type != MEMBER or host_of(stored.state_key or "") != self._own_server:
            return None
        if entry.event.content.get("membership") not in ("invite", "knock"):
            return None
        members = self._ground.lens(before).many([(MEMBER, stored.sender)])
        return stripped_state(self._ground.head, list(members.values()))

    def _entry(self, incoming: Incoming, found: Found, before: int, flags: int) -> RoomEvent:
        """The event as it will be stored, but for what it does to the room."""
        ground, event = self._ground, found.event
        stored = stored_event(ground, found, incoming.json, before, flags)
        stored = stored._replace(outbound=self._outbound and not flags & (REJECTED | SOFT_FAILED))
        return RoomEvent(stored, ground.head.room_id, ground.head.version, event)
