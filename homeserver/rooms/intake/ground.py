# SPDX-License-Identifier: Apache-2.0
"""The room as an event from outside finds it: what is on the head, in the batch being made, in memory and stored.

Owns looking up events by id and ordinal, and pieces of states that are not the present one. A state is a bitmap of
ordinals; it is read as what it differs by from the present one, whose keys are in memory, so that only the difference
is ever loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.protocol.event_auth import auth_types_for
from homeserver.protocol.events import Event
from homeserver.rooms.engine import RoomHead
from homeserver.rooms.engine.head import StateKey
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.moving import MEMBER, MissingState, MovingHead
from homeserver.rooms.engine.snapshots import State
from homeserver.rooms.intake.knowledge import Knowledge, Lacking

CREATE: StateKey = ("m.room.create", "")


def key_of(entry: RoomEvent) -> StateKey:
    """Of a state event."""
    stored = entry.stored
    assert stored.state_key is not None
    return stored.type, stored.state_key


class Ground:
    """Of one attempt at a batch."""

    def __init__(
        self,
        moving: MovingHead,
        knowledge: Knowledge,
        member_events: MemberEvents,
        recent: Iterable[RoomEvent] = (),
    ) -> None:
        """`recent`: events of the room that are in memory for other reasons, as the state was before the batch."""
        self._recent = {entry.stored.event_id: entry for entry in recent}
        self._recent_ordinals = {entry.stored.ordinal: entry for entry in self._recent.values()}
        self.moving = moving
        self.knowledge = knowledge
        self._member_events = member_events
        self._batch_ids: dict[str, RoomEvent] = {}
        self._batch_ordinals: dict[int, RoomEvent] = {}
        for entry in moving.appended:
            self.add(entry)
        self.contested = 0
        """Events that states resolved so far differed in: what there was to think about."""
        self._state_ids: tuple[object, dict[str, RoomEvent], dict[int, RoomEvent]] | None = None
        self._lenses: dict[tuple[int, int], Lens] = {}

    @property
    def head(self) -> RoomHead:
        return self.moving.head

    def add(self, entry: RoomEvent) -> None:
        """An event of this batch."""
        self._batch_ids[entry.stored.event_id] = entry
        self._batch_ordinals[entry.stored.ordinal] = entry

    def in_batch(self, event_id: str) -> RoomEvent | None:
        return self._batch_ids.get(event_id)

    # Events.

    def event(self, event_id: str, near: Iterable[str] = ()) -> RoomEvent | None:
        """A known event of this room or another; None if there is none, or it is yet to be loaded (`check`).

        `near` are users whose member event it may be.
        """
        entry = (
            self._batch_ids.get(event_id) or self._present()[0].get(event_id) or self._recent.get(event_id)
        )
        if entry is not None:
            return entry
        for user_id in near:
            member = self._member_in_memory(user_id)
            if member is not None and member.stored.event_id == event_id:
                return member
        return self.knowledge.event(event_id)

    def at(self, ordinal: int) -> RoomEvent | None:
        """The event at an ordinal that is known to be taken; None if it is yet to be loaded."""
        return (
            self._batch_ordinals.get(ordinal)
            or self._present()[1].get(ordinal)
            or self._recent_ordinals.get(ordinal)
            or self._member_events.peek(self.head.room, ordinal)
            or self.knowledge.at(ordinal)
        )

    def all_at(self, ordinals: Iterable[int]) -> list[RoomEvent]:
        """The events at those ordinals. Raises Lacking."""
        found = [self.at(ordinal) for ordinal in ordinals]
        self.check()
        return [entry for entry in found if entry is not None]

    def keys_at(self, ordinals: Iterable[int]) -> dict[int, StateKey]:
        """Type and state key of the state events at those ordinals. Raises Lacking."""
        found: dict[int, StateKey] = {}
        for ordinal in ordinals:
            entry = (
                self._batch_ordinals.get(ordinal)
                or self._present()[1].get(ordinal)
                or self._recent_ordinals.get(ordinal)
            )
            key = self.knowledge.key_at(ordinal) if entry is None else key_of(entry)
            if key is not None:
                found[ordinal] = key
        self.check()
        return found

    def check(self) -> None:
        """Raises Lacking if anything that was asked is yet to be loaded."""
        self.knowledge.check()

    def _present(self) -> tuple[dict[str, RoomEvent], dict[int, RoomEvent]]:
        state = self.head.state
        if self._state_ids is None or self._state_ids[0] is not state:
            entries = list(state.values())
            self._state_ids = (
                state,
                {entry.stored.event_id: entry for entry in entries},
                {entry.stored.ordinal: entry for entry in entries},
            )
        return self._state_ids[1], self._state_ids[2]

    def _member_in_memory(self, user_id: str) -> RoomEvent | None:
        member = self.head.members.get(user_id)
        if member is None:
            return None
        fresh = self.head.fresh_members.get(user_id)
        if fresh is not None and fresh.stored.ordinal == member.ordinal:
            return fresh
        return self._member_events.peek(self.head.room, member.ordinal)

    def present(self, key: StateKey) -> RoomEvent | None:
        """A piece of the present state. None may mean that it is yet to be loaded."""
        if key[0] != MEMBER:
            return self.head.state.get(key)
        member = self.head.members.get(key[1])
        return None if member is None else self._member_in_memory(key[1]) or self.at(member.ordinal)

    def present_ordinal(self, key: StateKey) -> int | None:
        if key[0] == MEMBER:
            member = self.head.members.get(key[1])
            return None if member is None else member.ordinal
        entry = self.head.state.get(key)
        return None if entry is None else entry.stored.ordinal

    # States.

    def state(self, snapshot: int) -> State:
        """Raises Lacking."""
        while True:
            try:
                return self.moving.state(snapshot)
            except MissingState as missing:
                stored = self.knowledge.state(missing.snapshot)
                if stored is None:
                    raise Lacking from missing
                self.moving.keep(stored)

    def want_state(self, snapshot: int) -> None:
        """Have it loaded with what else is lacking."""
        try:
            self.state(snapshot)
        except Lacking:
            return

    def lens(self, snapshot: int) -> Lens:
        """A state by key. Raises Lacking."""
        key = (snapshot, self.head.snapshot)
        lens = self._lenses.get(key)
        if lens is None:
            present = snapshot == self.head.snapshot
            if not present:
                self.want_state(self.head.snapshot)
            lens = self._lenses[key] = Lens(self, None if present else self.state(snapshot).ordinals)
        return lens


class Lens:
    """Reads a state by key. Holds as long as the present state stays what it was when the lens was made."""

    __slots__ = ("_differing", "_ground", "_ordinals")

    def __init__(self, ground: Ground, ordinals: BitMap | None) -> None:
        """`ordinals` None: the present state."""
        self._ground = ground
        self._ordinals = ordinals
        self._differing: Mapping[StateKey, int] = {}
        if ordinals is not None:
            others = ordinals - ground.state(ground.head.snapshot).ordinals
            self._differing = {key: ordinal for ordinal, key in ground.keys_at(others).items()}

    def get(self, key: StateKey) -> RoomEvent | None:
        """The event there; None if there is none, or it is yet to be loaded (`Ground.check`)."""
        ordinal = self._differing.get(key)
        if ordinal is not None:
            return self._ground.at(ordinal)
        if self._ordinals is not None:
            ordinal = self._ground.present_ordinal(key)
            if ordinal is None or ordinal not in self._ordinals:
                return None
        return self._ground.present(key)

    def many(self, keys: Iterable[StateKey]) -> dict[StateKey, RoomEvent]:
        """The events there. Raises Lacking."""
        found = {key: entry for key in keys if (entry := self.get(key)) is not None}
        self._ground.check()
        return found

    def auth_state(self, event: Event) -> dict[StateKey, Event]:
        """What the state holds that the event is authorized by. Raises Lacking."""
        version = event.room_version
        keys = auth_types_for(version, event.type, event.sender, event.state_key, event.content)
        return {key: entry.event for key, entry in self.many((CREATE, *keys)).items()}
