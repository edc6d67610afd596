# SPDX-License-Identifier: Apache-2.0
"""Coming into a room by a join that another server accepted: from its answer to a live room.

The state and the auth chains below it are checked and stored first, outside the stream (`outliers`); then one commit
puts the join on top of them as the room's only end, with the state before it as a checkpoint. A room known from before
(an earlier stay, an invite) is renewed: what it was is replaced by what the answer says.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from homeserver.needs import Protocol
from homeserver.protocol.errors import ProtocolError
from homeserver.protocol.event_auth import AuthError, auth_types_for, check_auth_events, check_event_auth
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.room_versions import IMPLIED_ROOM_VERSION, RoomVersion
from homeserver.rooms.arrival.departures import departures
from homeserver.rooms.arrival.judging import Standing, create_event_id
from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.arrival.standing import (
    MEMBER,
    Announcer,
    Piece,
    changes_between,
    membership_of,
    numbered,
    room_moved,
    summary_of,
    visibility_of,
)
from homeserver.rooms.engine import Room, RoomCache, RoomHead
from homeserver.rooms.engine.head import StateKey
from homeserver.rooms.engine.snapshots import checkpoint_of
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from homeserver.stream import Committer
from homeserver.stream.batches import Row
from storage.arrivals import ArrivalStore, OtherVersion
from storage.events import OUTLIER, REJECTED, SOFT_FAILED, EventStore
from storage.rooms import Member
from storage.stream import AlreadyStored

logger = logging.getLogger(__name__)

CREATE: StateKey = ("m.room.create", "")
DECISIVE = frozenset((CREATE, ("m.room.power_levels", ""), ("m.room.join_rules", "")))
"""Without these a room is another: a state that has them must show that they stand."""
MAX_TRIES = 20


class ArrivalRefused(Exception):
    """The answer to a join cannot be believed: it is not a room that the join stands in."""


class Partial(Struct, frozen=True):
    """The answer left members out."""

    destination: str
    """The server that gave it."""
    servers: Sequence[str]
    """Those in the room, as it says."""


class Intake(Protocol):
    """Takes events into live rooms; `rooms.intake.RoomIntake` is one."""

    async def receive(
        self, room_id: str, events: Sequence[Incoming], *, outbound: bool = False, users: Sequence[str] = ()
    ) -> list[Verdict]: ...


class RoomArrival:
    """Makes rooms live. One per process."""

    def __init__(
        self,
        *,
        cache: RoomCache,
        stream: Announcer,
        committer: Committer,
        store: ArrivalStore,
        events: EventStore,
        intake: Intake,
        server_name: str,
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        """`pause` lets others have the reactor."""
        self._cache = cache
        self._stream = stream
        self._committer = committer
        self._store = store
        self._events = events
        self._intake = intake
        self._server_name = server_name
        self._outliers = Outliers(store=store, events=events, pause=pause)

    async def is_live(self, room_id: str) -> bool:
        """Whether this server is in the room."""
        room = await self._cache.get(room_id)
        return room is not None and room.head.is_resident(self._server_name)

    async def arrive(
        self,
        room_id: str,
        version: RoomVersion,
        event: Incoming,
        state: Sequence[Incoming],
        auth_chain: Sequence[Incoming],
        *,
        partial: Partial | None = None,
        progress: Callable[[int], None] = lambda _done: None,
    ) -> Room:
        """Be in the room by the join `event`, before which its state was `state`; all of checked form and signature.

        `auth_chain` must hold every event that the join, the state and itself cite and that is not stored here; with
        `partial`, `state` lacks members. `progress` hears how many events are stored. Idempotent.
        Raises ArrivalRefused if create event, state and join do not go together.
        """
        # Some servers count the join in already.
        by_key = _by_key([each for each in state if each.event.event_id != event.event.event_id])
        _check_create(room_id, version, by_key)
        try:
            key = await self._store.stub(room_id, str(version))
        except OtherVersion as error:
            raise ArrivalRefused(str(error)) from error
        visibility = visibility_of({k: incoming.event for k, incoming in by_key.items()})
        stand = await self._outliers.take_in(
            key, room_id, version, [*auth_chain, *by_key.values()], visibility=visibility, progress=progress
        )
        pieces = _accepted(by_key, stand)
        _check_join(event.event, version, pieces, stand, partial is not None)
        for _ in range(MAX_TRIES):
            room = await self._loaded(room_id)
            left = await departures(
                self._events, room, {k: p.ordinal for k, p in pieces.items()}, server_name=self._server_name
            )
            left.pop((MEMBER, event.event.sender), None)
            arrival = _Arrival(event, {**pieces, **left}, stand, visibility, partial)
            if room.head.is_resident(self._server_name):
                return await self._join_in(room, arrival)
            known = room.head.state_event("m.room.create")
            if known is not None and known.stored.event_id != by_key[CREATE].event.event_id:
                raise ArrivalRefused("the room began with another m.room.create event when it was known here")
            if await self._commit(room, arrival):
                return await self._loaded(room_id)
        raise TimeoutError(f"the head of {room_id} moved {MAX_TRIES} times while it was entered")

    async def _loaded(self, room_id: str) -> Room:
        self._cache.mark_stale(room_id)
        room = await self._cache.get(room_id)
        if room is None:
            raise ArrivalRefused("the room is stored with a version this server does not speak")
        return room

    async def _join_in(self, room: Room, arrival: _Arrival) -> Room:
        """Somebody else of ours came in meanwhile: what we hold is one more event of a live room."""
        event_id = arrival.event.event.event_id
        if not await self._stands(event_id):
            before = [piece.event.event_id for piece in arrival.state.values()]
            whole = Incoming(
                arrival.event.event, arrival.event.json, before if arrival.partial is None else None
            )
            (verdict,) = await self._intake.receive(room.room_id, [whole])
            if verdict.outcome not in (Outcome.ACCEPTED, Outcome.KNOWN):
                raise ArrivalRefused(verdict.reason or f"the join was {verdict.outcome.name.lower()}")
        return await self._loaded(room.room_id)

    async def _stands(self, event_id: str) -> bool:
        stored = (await self._events.by_ids((event_id,))).get(event_id)
        return stored is not None and stored.flags == 0 and stored.position > 0

    async def _commit(self, room: Room, arrival: _Arrival) -> bool:
        """False if the head had moved."""
        known = await self._store.known((arrival.event.event.event_id, *arrival.event.event.prev_event_ids))
        join = known.get(arrival.event.event.event_id)
        if join is not None and (join.room != room.key or join.flags & (REJECTED | SOFT_FAILED)):
            raise ArrivalRefused("the join is known here as an event that does not stand")
        if join is None:
            ordinal = await self._store.reserve_ordinals(room.key, 1)
            room = await self._loaded(room.room_id)
            if room.head.is_resident(self._server_name):
                return False
        else:
            ordinal = join.ordinal
        gaps = [
            event_id
            for event_id in arrival.event.event.prev_event_ids
            if event_id not in known or known[event_id].flags & OUTLIER
        ]
        row, users = _rows(room.head, arrival, ordinal, gaps, self._server_name)

        moved = room_moved(self._stream, room.key, users)
        try:
            await self._committer.write("arrival", [row], users=users, landed=moved)
        except AlreadyStored:
            return False  # another process stored one of the events between our looks
        return await self._stands(arrival.event.event.event_id)


class _Arrival(Struct, frozen=True):
    event: Incoming
    state: Mapping[StateKey, Piece]
    """Before the join."""
    stand: Mapping[str, Standing]
    visibility: int
    partial: Partial | None


def _by_key(state: Sequence[Incoming]) -> dict[StateKey, Incoming]:
    by_key: dict[StateKey, Incoming] = {}
    for incoming in state:
        if incoming.event.state_key is None:
            raise ArrivalRefused(f"{incoming.event.event_id} in the state is no state event")
        present = by_key.setdefault(incoming.event.state_tuple, incoming)
        if present.event.event_id != incoming.event.event_id:
            raise ArrivalRefused(f"the state has two events for {incoming.event.state_tuple}")
    return by_key


def _check_create(room_id: str, version: RoomVersion, state: Mapping[StateKey, Incoming]) -> None:
    """The room is the one that was asked for, of the version that was said."""
    create = state.get(CREATE)
    if create is None:
        raise ArrivalRefused("the state has no m.room.create event")
    if create.event.room_id != room_id:
        raise ArrivalRefused("the m.room.create event is of another room")
    expected_id = create_event_id(version, room_id)
    if expected_id is not None and create.event.event_id != expected_id:
        raise ArrivalRefused("the room id is not the hash of the m.room.create event")
    named = create.event.content.get("room_version", IMPLIED_ROOM_VERSION)
    if named != str(version):
        raise ArrivalRefused(f"the room is of version {named!r}, not {version}")
    # Before anything is stored: by a create event that is not the room's, and the rules of the version it names, the
    # room's events would be judged, and those that these do not allow would stay rejected.
    try:
        check_event_auth(create.event, {})
    except AuthError as error:
        raise ArrivalRefused(f"the state's m.room.create event is not allowed: {error}") from error


def _accepted(state: Mapping[StateKey, Incoming], stand: Mapping[str, Standing]) -> dict[StateKey, Piece]:
    """The state without what was rejected, or stands on what nobody has (a server's keys may be lost for good)."""
    pieces: dict[StateKey, Piece] = {}
    for key, incoming in state.items():
        standing = stand.get(incoming.event.event_id)
        if standing is not None and not standing.rejected:
            # What is stored counts, not what was sent: it may have been redacted here, or in versions 1 and 2 differ.
            pieces[key] = Piece(standing.ordinal, standing.event)
        elif key in DECISIVE:
            fault = "not allowed" if standing is not None else "not complete in its auth chain"
            raise ArrivalRefused(f"the state's {key[0]} event is {fault}")
        else:
            logger.warning("%r is left out of the state it was said to be in", incoming.event)
    return pieces


def _check_join(
    event: Event,
    version: RoomVersion,
    state: Mapping[StateKey, Piece],
    stand: Mapping[str, Standing],
    partial: bool,
) -> None:
    """The join stands by what it cites and by the state before it."""
    if event.type != MEMBER or membership_of(event) != "join":
        raise ArrivalRefused("the event is no join")
    missing = [event_id for event_id in event.auth_event_ids if event_id not in stand]
    if missing:
        raise ArrivalRefused(f"the join cites {missing[0]}, which nobody has")
    cited = [stand[event_id] for event_id in event.auth_event_ids]
    create = {CREATE: state[CREATE].event}
    by_citation = {s.event.state_tuple: s.event for s in cited if s.event.state_key is not None}
    wanted = auth_types_for(version, event.type, event.sender, event.state_key, event.content)
    by_state = {key: state[key].event for key in wanted if key in state}
    if partial:  # the member who vouches for a restricted join may have been left out of the state
        by_state = {**{k: e for k, e in by_citation.items() if k[0] == MEMBER}, **by_state}
    try:
        check_auth_events(event, [s.event for s in cited], {s.event.event_id for s in cited if s.rejected})
        check_event_auth(event, create | by_citation)
        check_event_auth(event, create | by_state)
    except (AuthError, ProtocolError) as error:
        raise ArrivalRefused(f"the join is not allowed: {error}") from error


def _rows(
    head: RoomHead, arrival: _Arrival, ordinal: int, gaps: Sequence[str], server_name: str
) -> tuple[Row, Sequence[str]]:
    """The row of `write_arrival`, and whose own rooms change with it."""
    event = arrival.event.event
    assert event.state_key is not None
    own: StateKey = (MEMBER, event.state_key)
    replaced = arrival.state.get(own)
    after = {**arrival.state, own: Piece(ordinal, event)}

    def keeps(user_id: str, member: Member) -> bool:
        # A part of the members says nothing of the others; of our own we know more than nothing.
        return (
            arrival.partial is not None and domain_of(user_id) == server_name and member.membership != "join"
        )

    changes = changes_between(
        head, after, own_server=server_name, keeps=keeps, renews=lambda user_id: user_id == event.state_key
    )
    kept = [m for user, m in head.members.items() if (MEMBER, user) not in after and keeps(user, m)]
    before = head.next_snapshot
    row: Row = {
        "room": head.room,
        "expected": head.head,
        "head": {
            # Who invited somebody here may have said another version than it is.
            "version": str(event.room_version),
            "depth": event.depth,
            "extremities": [ordinal],
            "snapshot": before + 1,
            "next_snapshot": before + 2,
            "snapshot_weight": 1 if replaced is None else 2,
        },
        "event": _event_row(arrival, ordinal, before, replaced),
        "state": {
            "snapshots": _snapshots(arrival, ordinal, before, replaced),
            "current": numbered(changes.current),
            "ended": numbered(changes.ended),
            "begun": numbered(changes.begun),
            "renewed": numbered(changes.renewed),
            "summaries": numbered([summary_of(head, after, kept)]),
        },
        "gaps": [
            {"missing_event_id": event_id, "ordinal": ordinal, "depth": event.depth} for event_id in gaps
        ],
        "partial": None
        if arrival.partial is None
        else {
            "event_id": event.event_id,
            "snapshot": before,
            "destination": arrival.partial.destination,
            "servers": list(arrival.partial.servers),
        },
    }
    users = sorted(user for user in changes.users if domain_of(user) == server_name)
    return {**row, "users": users}, users


def _event_row(arrival: _Arrival, ordinal: int, before: int, replaced: Piece | None) -> Row:
    event = arrival.event.event
    cited = [arrival.stand[event_id] for event_id in event.auth_event_ids]
    chain = cited[0].chain.copy() if cited else None
    for standing in cited:
        assert chain is not None
        chain |= standing.chain
        chain.add(standing.ordinal)
    return {
        "ordinal": ordinal,
        "depth": event.depth,
        "origin_server_ts": event.origin_server_ts,
        "snapshot": before,
        "current_snapshot": before + 1,
        "replaces": None if replaced is None else replaced.ordinal,
        "visibility": arrival.visibility,
        "event_id": event.event_id,
        "type": event.type,
        "state_key": event.state_key,
        "sender": event.sender,
        "auth_chain": None if chain is None else b64encode(bytes(chain.serialize())).decode(),
        "pdu": arrival.event.json,
    }


def _snapshots(arrival: _Arrival, ordinal: int, before: int, replaced: Piece | None) -> list[Any]:
    checkpoint = checkpoint_of(piece.ordinal for piece in arrival.state.values())
    return [
        {
            "r": 0,
            "snapshot": before,
            "parent": None,
            "added": [],
            "removed": [],
            "checkpoint": b64encode(checkpoint).decode(),
        },
        {
            "r": 0,
            "snapshot": before + 1,
            "parent": before,
            "added": [ordinal],
            "removed": [] if replaced is None else [replaced.ordinal],
            "checkpoint": None,
        },
    ]
