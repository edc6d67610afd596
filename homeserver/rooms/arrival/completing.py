# SPDX-License-Identifier: Apache-2.0
"""A room known in part becomes known wholly: members get their places, what was taken on trust is looked at again.

The whole state before our join is stored by then; this puts it below everything that was built since, in one commit.
Everybody of ours in the room begins a new stay with it, so that clients are sent the room's state anew. What came
meanwhile from somebody who turns out not to have been allowed to send it is shown no more.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections import ChainMap
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct, field
from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.protocol.errors import ProtocolError
from homeserver.protocol.event_auth import AuthError, auth_types_for, check_event_auth
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.arrival.departures import departures
from homeserver.rooms.arrival.overlay import Mended, Overlay
from homeserver.rooms.arrival.standing import (
    MEMBER,
    Announcer,
    Piece,
    changes_between,
    numbered,
    room_moved,
    summary_of,
)
from homeserver.rooms.engine import Room, RoomCache, RoomHead
from homeserver.rooms.engine.head import StateKey
from homeserver.rooms.engine.snapshots import checkpoint_of
from homeserver.stream import Committer
from homeserver.stream.batches import Row
from storage.arrivals import ArrivalStore
from storage.events import REJECTED, EventStore
from storage.partial_rooms import PartialRoom, PartialRoomStore
from storage.rooms import Member

logger = logging.getLogger(__name__)

MAX_TRIES = 20
PORTION = 500
ID_PORTION = 5000
CREATE: StateKey = ("m.room.create", "")


class IncompleteState(Exception):
    """The state that was given cannot be the room's."""


class _Verdict(Struct, frozen=True):
    """What came meanwhile, looked at again."""

    failed: dict[int, int | None] = field(default_factory=dict)
    """Ordinals of what may not have been sent; with each what stood in its place, if it is state."""
    replaced: dict[int, int] = field(default_factory=dict)
    """Ordinals of state events that seemed to replace nothing, and of what they replaced."""


class RoomCompletion:
    """One per process."""

    def __init__(
        self,
        *,
        cache: RoomCache,
        stream: Announcer,
        committer: Committer,
        store: ArrivalStore,
        partial: PartialRoomStore,
        events: EventStore,
        server_name: str,
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        """`pause` lets others have the reactor."""
        self._cache = cache
        self._stream = stream
        self._committer = committer
        self._store = store
        self._partial = partial
        self._events = events
        self._server_name = server_name
        self._pause = pause

    async def complete(
        self,
        entered: PartialRoom,
        state_ids: Sequence[str],
        members: Mapping[int, Event] = MappingProxyType({}),
    ) -> None:
        """Know the room wholly; `state_ids` is the state before our join, all of it stored. Idempotent.

        `members`: member events that are at hand, by their ordinals. They need not be read again: of a member event
        that may have been redacted here counts only what redaction keeps. Raises IncompleteState.
        """
        whole = await self._places(entered.room, state_ids)
        known = dict(members)
        for _ in range(MAX_TRIES):
            self._cache.mark_stale(entered.room_id)
            room = await self._cache.get(entered.room_id)
            if room is None or not await self._partial.is_partial(entered.room):
                return
            if await self._commit(room, entered, whole, known):
                logger.info("room %s is known wholly, %d pieces of state", entered.room_id, len(whole))
                return
        raise TimeoutError(f"the head of {entered.room_id} moved {MAX_TRIES} times while it was completed")

    async def _places(self, room: int, state_ids: Sequence[str]) -> dict[StateKey, int]:
        whole: dict[StateKey, int] = {}
        for start in range(0, len(state_ids), ID_PORTION):
            for event in (await self._store.known(state_ids[start : start + ID_PORTION])).values():
                if event.room != room or event.flags & REJECTED or event.state_key is None:
                    continue
                if event.auth_chain is None:  # an invite that came before our join, and was never judged
                    continue
                if whole.setdefault((event.type, event.state_key), event.ordinal) != event.ordinal:
                    raise IncompleteState(f"two events for {event.type}")
            await self._pause()
        if CREATE not in whole:
            raise IncompleteState("no create event")
        return whole

    async def _commit(
        self, room: Room, entered: PartialRoom, whole: Mapping[StateKey, int], known: dict[int, Event]
    ) -> bool:
        """False if the head had moved; what was loaded of members is then in `known`."""
        # One head for all of it: the room's own moves on meanwhile, and what is read of a newer one would be written as
        # if it had been looked at.
        head = room.head
        join = (await self._store.known((entered.event_id,)))[entered.event_id]
        left = await departures(self._events, room, whole, server_name=self._server_name, before=join.ordinal)
        whole = {**whole, **{key: piece.ordinal for key, piece in left.items()}}
        overlay = await self._overlay(room.key, entered, whole)
        present = overlay.state(head.snapshot)
        if present is None:
            raise IncompleteState("the present state does not follow from the one before the join")
        events = await self._present(room, present, known)
        verdict = await self._look_again(room, entered, overlay, events)
        state = {event.state_tuple: Piece(ordinal, event) for ordinal, event in events.items()}
        head_row, snapshots = self._without_failed(head, verdict, state)
        await self._add_missing(room, state, snapshots)
        row, users = self._row(head, state, overlay.mended(), verdict)
        row["head"] = head_row
        row["state"]["snapshots"] = numbered(snapshots)

        moved = room_moved(self._stream, room.key, users)
        await self._committer.write("arrival", [row], users=users, landed=moved)
        return not await self._partial.is_partial(room.key)

    async def _overlay(self, room: int, entered: PartialRoom, whole: Mapping[StateKey, int]) -> Overlay:
        deltas = await self._partial.deltas_since(room, entered.snapshot)
        if not any(row.snapshot == entered.snapshot for row in deltas):
            raise IncompleteState("the state before the join is not stored")
        keys = {ordinal: key for key, ordinal in whole.items()}
        unknown = {ordinal for row in deltas for ordinal in (*row.added, *row.removed) if ordinal not in keys}
        for row in deltas:
            if row.checkpoint is not None:
                unknown.update(set(BitMap.deserialize(row.checkpoint)) - keys.keys())
        ordered = sorted(unknown)
        for start in range(0, len(ordered), ID_PORTION):
            for entry in await self._partial.entries(room, ordered[start : start + ID_PORTION]):
                keys[entry.ordinal] = (entry.type, entry.state_key)
        return Overlay(deltas, entered.snapshot, whole, keys)

    async def _present(
        self, room: Room, ordinals: Iterable[int], known: dict[int, Event]
    ) -> dict[int, Event]:
        """The events of the present state. Members stay in `known` for the next attempt, if there must be one."""
        found = {ordinal: known[ordinal] for ordinal in ordinals if ordinal in known}
        for ordinal, entry in (await self._load(room, (o for o in ordinals if o not in found))).items():
            found[ordinal] = entry.event
            if entry.stored.type == MEMBER:
                known[ordinal] = entry.event
        return found

    async def _load(self, room: Room, ordinals: Iterable[int]) -> dict[int, RoomEvent]:
        found: dict[int, RoomEvent] = {}
        wanted = list(ordinals)
        for start in range(0, len(wanted), PORTION):
            places = [(room.key, ordinal) for ordinal in wanted[start : start + PORTION]]
            for stored in await self._events.by_ordinals(places):
                entry = RoomEvent(stored, room.room_id, room.head.version)
                found[stored.ordinal] = entry
            await self._pause()
        return found

    # What came meanwhile.

    async def _look_again(
        self, room: Room, entered: PartialRoom, overlay: Overlay, present: Mapping[int, Event]
    ) -> _Verdict:
        verdict = _Verdict()
        ordinals = await self._partial.shown_since(room.key, entered.event_id)
        for start in range(0, len(ordinals), PORTION):
            arrived = await self._load(room, ordinals[start : start + PORTION])
            places = {ordinal: _auth_places(entry, overlay) for ordinal, entry in arrived.items()}
            cited = {ordinal for found in places.values() for ordinal in found.values()} - present.keys()
            loaded = await self._load(room, sorted(cited))
            events = ChainMap({ordinal: entry.event for ordinal, entry in loaded.items()}, dict(present))
            for ordinal, entry in sorted(arrived.items()):
                if not overlay.follows(entry.stored.snapshot):
                    continue
                before = _before(entry, overlay)
                if before is not None and entry.stored.replaces is None:
                    verdict.replaced[ordinal] = before
                reason = _problem(entry, places[ordinal], events)
                if reason:
                    logger.info("%r, taken in on trust, is not shown any more: %s", entry, reason)
                    verdict.failed[ordinal] = before
        return verdict

    def _without_failed(
        self, head: RoomHead, verdict: _Verdict, state: dict[StateKey, Piece]
    ) -> tuple[Row | None, list[Row]]:
        """Take what failed out of the present state; the room's row and the snapshot if that changes it."""
        removed, added = [], []
        for key, piece in list(state.items()):
            if piece.ordinal in verdict.failed:
                removed.append(piece.ordinal)
                del state[key]
                before = verdict.failed[piece.ordinal]
                if before is not None and before not in verdict.failed:
                    added.append(before)
        if not removed:
            return None, []
        snapshot: Row = {
            "snapshot": head.next_snapshot,
            "parent": head.snapshot,
            "added": added,
            "removed": removed,
            "checkpoint": None,
        }
        row: Row = {
            "snapshot": head.next_snapshot,
            "next_snapshot": head.next_snapshot + 1,
            "snapshot_weight": head.snapshot_weight + len(added) + len(removed),
        }
        return row, [snapshot]

    async def _add_missing(self, room: Room, state: dict[StateKey, Piece], snapshots: Sequence[Row]) -> None:
        """Put back what stood where something failed."""
        ordinals = [ordinal for row in snapshots for ordinal in row["added"]]
        for ordinal, entry in (await self._load(room, ordinals)).items():
            state[key_of(entry)] = Piece(ordinal, entry.event)

    def _row(
        self, head: RoomHead, state: Mapping[StateKey, Piece], mended: Mended, verdict: _Verdict
    ) -> tuple[Row, Sequence[str]]:
        def keeps(_user_id: str, _member: Member) -> bool:
            return False

        def renews(user_id: str) -> bool:
            return head.is_joined(user_id) and domain_of(user_id) == self._server_name

        changes = changes_between(head, state, own_server=self._server_name, keeps=keeps, renews=renews)
        row: Row = {
            "room": head.room,
            "expected": head.head,
            "head": None,
            "event": None,
            "state": {
                "snapshots": [],
                "current": numbered(changes.current),
                "ended": numbered(changes.ended),
                "begun": numbered(changes.begun),
                "renewed": numbered(changes.renewed),
                "summaries": numbered([summary_of(head, state)]),
            },
            "completion": {
                "checkpoints": [
                    {"snapshot": snapshot, "checkpoint": b64encode(checkpoint_of(bitmap)).decode()}
                    for snapshot, bitmap in mended.checkpoints.items()
                ],
                "removals": [
                    {"snapshot": snapshot, "removed": removed}
                    for snapshot, removed in mended.removals.items()
                ],
                "replaced": [
                    {"ordinal": ordinal, "replaces": replaces}
                    for ordinal, replaces in verdict.replaced.items()
                ],
                "failed": list(verdict.failed),
            },
        }
        users = sorted(user for user in changes.users if domain_of(user) == self._server_name)
        return {**row, "users": users}, users


def key_of(entry: RoomEvent) -> StateKey:
    """Of a state event."""
    stored = entry.stored
    assert stored.state_key is not None
    return stored.type, stored.state_key


def _auth_places(entry: RoomEvent, overlay: Overlay) -> dict[StateKey, int]:
    """Where in the state before an event stands what it is authorized by."""
    event, snapshot = entry.event, entry.stored.snapshot
    if snapshot is None:
        return {}
    keys = auth_types_for(entry.version, event.type, event.sender, event.state_key, event.content)
    found = ((key, overlay.at(snapshot, key)) for key in (CREATE, *keys))
    return {key: ordinal for key, ordinal in found if ordinal is not None}


def _before(entry: RoomEvent, overlay: Overlay) -> int | None:
    """What stood where a state event was put."""
    if entry.stored.state_key is None or entry.stored.snapshot is None:
        return None
    return overlay.at(entry.stored.snapshot, key_of(entry))


def _problem(entry: RoomEvent, places: Mapping[StateKey, int], events: Mapping[int, Event]) -> str:
    """Why the state before an event does not allow it; empty if it does."""
    state = {key: events[ordinal] for key, ordinal in places.items() if ordinal in events}
    try:
        check_event_auth(entry.event, state)
    except AuthError as error:
        return str(error) or "not allowed"
    except (ProtocolError, LookupError) as error:
        return f"cannot be judged: {error}"
    return ""
