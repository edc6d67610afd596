# SPDX-License-Identifier: Apache-2.0
"""Memberships of this server's users in rooms it is not in: invited, knocking, or no longer so.

The room is known by its id and version, the member event is stored as one of unknown place, and the membership alone is
committed, so that `/sync` wakes and shows it. A join or the room's own events later take over from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from homeserver.protocol.building import build_event, next_depth
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import reference_hash
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.unpadded_base64 import encode_base64
from homeserver.protocol.visibility import HistoryVisibility
from homeserver.rooms.arrival.outliers import outlier_row
from homeserver.rooms.arrival.standing import MEMBER, Announcer, membership_of, room_moved
from homeserver.rooms.engine import Room, RoomCache
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.intake.incoming import Incoming
from homeserver.stream import Committer
from homeserver.stream.batches import Row
from storage.arrivals import ArrivalStore, OtherVersion
from storage.events import OUTLIER, REJECTED, EventStore, StoredEvent
from storage.memberships import MembershipStore

MAX_TRIES = 20
MAX_STRIPPED_EVENTS = 50
MAX_STRIPPED_BYTES = 65_536
RECENT = 20
"""Member events that are looked at for one that builds on what came late."""
AT_THE_DOOR = frozenset(("invite", "knock"))
_HIDDEN = int(HistoryVisibility.JOINED)


class Standing(NamedTuple):
    """What a user is in a room, and by which event."""

    membership: str
    event_id: str

    @property
    def is_at_the_door(self) -> bool:
        """Invited or knocking."""
        return self.membership in AT_THE_DOOR


class OutOfBand:
    """One per process."""

    def __init__(
        self,
        *,
        cache: RoomCache,
        stream: Announcer,
        committer: Committer,
        store: ArrivalStore,
        events: EventStore,
        memberships: MembershipStore,
        signer: Signer,
        now: Callable[[], int],
    ) -> None:
        self._cache = cache
        self._stream = stream
        self._committer = committer
        self._store = store
        self._events = events
        self._memberships = memberships
        self._signer = signer
        self._now = now

    async def invited(
        self, version: RoomVersion, event: Incoming, stripped_state: Sequence[Mapping[str, Any]]
    ) -> bool:
        """A user of ours is invited by `event`, checked and signed; `stripped_state` is what they are shown.

        False, and nothing is done, if this server is in the room: then the event is the room's own; and if the room is
        known from before to be of another version. The same event again is taken for done, and so is one that another
        which is known already builds on: of an old answer nothing newer is overwritten.
        """
        return await self._place(version, event, stripped_json(stripped_state))

    async def knocked(
        self, version: RoomVersion, event: Incoming, stripped_state: Sequence[Mapping[str, Any]]
    ) -> bool:
        """A user of ours knocks by `event`, which another server accepted. Otherwise as `invited`."""
        return await self._place(version, event, stripped_json(stripped_state))

    async def standing(self, room_id: str, user_id: str) -> Standing | None:
        """What a user is in a room; None if they never were anything."""
        room = await self._cache.get(room_id)
        member = None if room is None else room.head.members.get(user_id)
        if room is None or member is None:
            return None
        (stored,) = await self._events.by_ordinals([(room.key, member.ordinal)])
        return Standing(member.membership, stored.event_id)

    async def left(self, version: RoomVersion, event: Incoming, ended: str) -> bool:
        """A user's invite or knock, `ended` by its id, is over by `event`: rejected, taken back, turned down, banned.

        Otherwise as `invited`; also False if it is not what the user is at the door by, or not any more: a newer invite
        stays, and nobody can be shown rooms by being thrown out of them.
        """
        standing = await self.standing(event.event.room_id, event.event.state_key or "")
        if standing is None or not standing.is_at_the_door or standing.event_id != ended:
            return False
        return await self._place(version, event, None, ending=ended)

    async def withdraw(
        self, room_id: str, user_id: str, content: Mapping[str, Any], ended: str
    ) -> str | None:
        """End a user's invite or knock, `ended` by its id, here alone, where no server of the room took their leave.

        The id of the event that stands for it, which is sent to nobody; None if it is not what they are at the door by,
        or not any more.
        """
        room = await self._cache.get(room_id)
        stored = None if room is None else await self._calling(room, user_id)
        if room is None or stored is None or stored.event_id != ended:
            return None
        version = room.head.version
        calling = Event.from_pdu(orjson.loads(stored.pdu), version, stored.event_id)
        leave = self._leave(version, calling, user_id, content)
        placed = await self._place(version, leave, None, ending=ended)
        return leave.event.event_id if placed else None

    def _leave(
        self, version: RoomVersion, calling: Event, user_id: str, content: Mapping[str, Any]
    ) -> Incoming:
        chosen: dict[str, Any] = {}
        if version.chooses_event_ids:
            digest = encode_base64(reference_hash(calling.pdu, version))
            chosen = {
                "event_id": f"{calling.event_id.partition(':')[0]}-{self._now()}:{self._signer.server_name}",
                "reference_hashes": {calling.event_id: digest},
            }
        built = build_event(
            room_version=version,
            room_id=calling.room_id,
            event_type=MEMBER,
            state_key=user_id,
            sender=user_id,
            content={**content, "membership": "leave"},
            prev_event_ids=[calling.event_id],
            auth_event_ids=[calling.event_id],
            depth=next_depth((calling.depth,), version),
            origin_server_ts=self._now(),
            server_name=self._signer.server_name,
            signing_key=self._signer.key,
            **chosen,
        )
        return Incoming(built.event, built.json_bytes.decode())

    async def _place(
        self, version: RoomVersion, event: Incoming, stripped: str | None, *, ending: str | None = None
    ) -> bool:
        """`ending`: the invite or knock that must stand."""
        room_id, user_id = event.event.room_id, event.event.state_key
        if event.event.type != MEMBER or user_id is None or domain_of(user_id) != self._signer.server_name:
            raise ValueError(f"{event.event.event_id} is no membership of a user of this server")
        try:
            key = await self._store.stub(room_id, str(version))
        except OtherVersion:
            return False
        for _ in range(MAX_TRIES):
            if await self._doorway(room_id) is None:
                return False
            ordinal = await self._ordinal(key, event)
            if ordinal is None:
                return False
            # All that is read from here on is no older than the head that the commit expects.
            room = await self._doorway(room_id)
            if room is None:
                return False
            placed = await self._placed(key, user_id)
            if ordinal in placed or await self._is_old(room, placed, event.event.event_id):
                return True
            if ending is not None:
                calling = await self._calling(room, user_id)
                if calling is None or calling.event_id != ending:
                    return False
            await self._commit(room, user_id, event.event, ordinal, stripped)
            if ordinal in await self._placed(key, user_id):
                return True
        raise TimeoutError(f"the head of {room_id} moved {MAX_TRIES} times")

    async def _doorway(self, room_id: str) -> Room | None:
        """The room as it is now; None if this server is in it."""
        self._cache.mark_stale(room_id)
        room = await self._cache.get(room_id)
        return None if room is None or room.head.is_resident(self._signer.server_name) else room

    async def _calling(self, room: Room, user_id: str) -> StoredEvent | None:
        """The invite or knock by which the user is at the room's door."""
        member = room.head.members.get(user_id)
        if member is None or member.membership not in AT_THE_DOOR:
            return None
        (stored,) = await self._events.by_ordinals([(room.key, member.ordinal)])
        return stored

    async def _ordinal(self, key: int, event: Incoming) -> int | None:
        """Where the event is stored, from now on at least; None if it cannot count here."""
        event_id = event.event.event_id
        known = (await self._store.known((event_id,))).get(event_id)
        if known is None:
            ordinal = await self._store.reserve_ordinals(key, 1)
            row = outlier_row(
                event,
                ordinal,
                room_id=event.event.room_id,
                visibility=_HIDDEN,
                flags=OUTLIER,
                auth_chain=None,
            )
            await self._store.store(key, [row])
            known = (await self._store.known((event_id,))).get(event_id)
        if known is None or known.room != key or known.flags & REJECTED:
            return None
        return known.ordinal

    async def _placed(self, key: int, user_id: str) -> list[int]:
        """The events that made the user's membership what it is, or once was: an old invite comes to nothing."""
        return [interval.ordinal for interval in (await self._memberships.intervals(user_id, (key,)))[key]]

    async def _is_old(self, room: Room, placed: Sequence[int], event_id: str) -> bool:
        """Whether a membership that came before the event builds on it: an invite, say, on the knock that it answers.

        That is so in all room versions: what changes a membership cites the member event that it changes.
        """
        newest = [(room.key, ordinal) for ordinal in placed[-RECENT:]]
        return any(
            event_id
            in Event.from_pdu(orjson.loads(stored.pdu), room.head.version, stored.event_id).auth_event_ids
            for stored in await self._events.by_ordinals(newest)
        )

    async def _commit(
        self, room: Room, user_id: str, event: Event, ordinal: int, stripped: str | None
    ) -> None:
        begun: Row = {
            "r": 0,
            "user_id": user_id,
            "i": 1,
            "until_i": None,
            "membership": membership_of(event),
            "ordinal": ordinal,
            "sender": event.sender,
            "stripped_state": stripped,
        }
        ended = [{"r": 0, "user_id": user_id, "i": 1}] if user_id in room.head.members else []
        row: Row = {
            "room": room.key,
            "expected": room.head.head,
            "head": None,
            "event": None,
            "users": (user_id,),
            "state": {
                "snapshots": [],
                "current": [],
                "ended": ended,
                "begun": [begun],
                "renewed": [],
                "summaries": [],
            },
        }

        users = (user_id,)
        moved = room_moved(self._stream, room.key, users)
        await self._committer.write("arrival", [row], users=users, landed=moved)


def stripped_json(events: Sequence[Mapping[str, Any]]) -> str:
    """What a user is shown of a room, as a JSON array of stripped events; what is none or too much is left out."""
    kept: list[bytes] = []
    size = 2
    for event in events[:MAX_STRIPPED_EVENTS]:
        stripped = {key: event.get(key) for key in ("type", "state_key", "sender", "content")}
        texts = (stripped["type"], stripped["state_key"], stripped["sender"])
        if not all(isinstance(text, str) for text in texts) or not isinstance(stripped["content"], dict):
            continue
        text = orjson.dumps(stripped)
        size += len(text) + 1
        if size > MAX_STRIPPED_BYTES:
            break
        kept.append(text)
    return (b"[" + b",".join(kept) + b"]").decode()
