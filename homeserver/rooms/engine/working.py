# SPDX-License-Identifier: Apache-2.0
"""A head being built upon: each draft becomes an event on top of the one before, authorized, hashed and signed.

Owns turning drafts into events and rows. Synchronous and free of I/O: an event that is needed and not in memory is
named by `MissingEvents`, and whoever drives the work loads it and starts again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct
from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.protocol.building import build_event, next_depth
from homeserver.protocol.errors import EventFormatError
from homeserver.protocol.event_auth import auth_types_for, check_event_auth
from homeserver.protocol.event_format import MAX_PREV_EVENTS
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import reference_hash
from homeserver.protocol.policy_servers import PolicyServer, needs_recommendation
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.unpadded_base64 import encode_base64
from homeserver.rooms.engine.drafts import Draft
from homeserver.rooms.engine.head import RoomHead, StateKey
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.moving import MEMBER, MovingHead
from storage.events import HIDDEN, StoredEvent

CREATE: StateKey = ("m.room.create", "")
DUMMY = "org.matrix.dummy_event"
"""A message that servers write only to tie loose ends of the graph together; shown to nobody."""


class MissingEvents(Exception):
    """Events at these ordinals must be in memory before the work can go on."""

    def __init__(self, ordinals: Collection[int]) -> None:
        super().__init__(f"events not in memory: {ordinals}")
        self.ordinals = tuple(ordinals)


class Signer(Struct, frozen=True):
    """This server's name and the key it signs events with."""

    server_name: str
    key: SigningKey


class Guarded(Struct, frozen=True):
    """An event of ours that must not be written before the room's policy server has signed it."""

    policy_server: PolicyServer
    entry: RoomEvent


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
        self.moving = MovingHead(head, loaded, signer.server_name)
        self._signer = signer
        self._member_events = member_events
        self._loaded = loaded
        self._now = now
        self._guarded: list[Guarded] = []

    @property
    def head(self) -> RoomHead:
        """The room as of the last event appended."""
        return self.moving.head

    @property
    def appended(self) -> list[RoomEvent]:
        return self.moving.appended

    @property
    def guarded(self) -> list[Guarded]:
        """Those appended that a policy server has a say in."""
        if not self._guarded:
            return []
        standing = set(map(id, self.appended))
        return [each for each in self._guarded if id(each.entry) in standing]

    @property
    def own_server(self) -> str:
        return self._signer.server_name

    def append(self, draft: Draft) -> RoomEvent:
        """Build and authorize the event of a draft on top of the head, which moves onto it.

        Raises AuthError if the room's rules reject it, EventFormatError or CanonicalJsonError if it can't be an
        event, MissingEvents.
        """
        head = self.head
        _check_storable(draft)
        auth = self._auth_entries(draft)
        merged = head.extremities[-MAX_PREV_EVENTS:]
        event, json_bytes = self._build(draft, auth, merged)
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
            flags=HIDDEN if draft.type == DUMMY and draft.state_key is None else 0,
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
            current_snapshot=head.next_snapshot if event.is_state else head.snapshot,
        )
        entry = RoomEvent(stored, event.room_id, event.room_version, event)
        policy_server = head.policy_server
        if policy_server is not None and needs_recommendation(draft.type, draft.state_key):
            self._guarded.append(Guarded(policy_server, entry))
        self.moving.add_own(
            entry,
            transaction=draft.transaction,
            stripped_state=draft.stripped_state,
            rest=head.extremities[:-MAX_PREV_EVENTS],
        )
        if draft.redacts is not None:
            self.moving.strike(draft.redacts, entry)
        return entry

    # Building.

    def _build(
        self, draft: Draft, auth: dict[StateKey, RoomEvent], merged: Sequence[tuple[str, int]]
    ) -> tuple[Event, bytes]:
        head, version = self.head, self.head.version
        event_id, hashes = None, {}
        if version.chooses_event_ids:
            event_id = f"${secrets.token_urlsafe(18)}:{self._signer.server_name}"
            hashes = self._reference_hashes(auth, merged)
        built = build_event(
            room_version=version,
            room_id=None if draft.type == CREATE[0] and version.room_id_is_create_hash else head.room_id,
            event_type=draft.type,
            state_key=draft.state_key,
            sender=draft.sender,
            content=dict(draft.content),
            prev_event_ids=[event_id for event_id, _ in merged],
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

    def _reference_hashes(
        self, auth: dict[StateKey, RoomEvent], merged: Sequence[tuple[str, int]]
    ) -> dict[str, str]:
        known = {entry.stored.event_id: entry for entry in (*auth.values(), *self.appended)}
        missing = []
        for event_id, ordinal in merged:
            if event_id not in known:
                entry = self._in_memory(ordinal)
                if entry is None:
                    missing.append(ordinal)
                else:
                    known[event_id] = entry
        if missing:
            raise MissingEvents(missing)
        wanted = {event_id for event_id, _ in merged}
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


def _check_storable(draft: Draft) -> None:
    """Refuse NUL where Postgres would: one such event would take the whole group commit down."""
    transaction_id = "" if draft.transaction is None else draft.transaction.transaction_id
    if any("\0" in text for text in (draft.type, draft.state_key or "", transaction_id)):
        raise EventFormatError("NUL in an event's type, state key or transaction id")
