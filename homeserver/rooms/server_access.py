# SPDX-License-Identifier: Apache-2.0
"""The gate for other servers: every read of a room and every handshake on behalf of a server goes through `ServerGate`.

Owns which rooms a server may ask about, access control lists, and which events it gets whole, redacted or not at all.
A room that it may not read is refused in the same words whether it is known here or not. Does not own what a request
then does.

Servers in a room must be able to follow its graph, so an event that they may not see goes to them redacted: its id and
place are the same, its content is not there. Who is not in the room (it is world-readable) gets nothing instead.

What counts as seeing is the users' rule (client-server API, "Room History Visibility"), asked of a server as if all
its users were one: an event is for them if it is for any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
from msgspec import Struct
from pyroaring import BitMap

from homeserver.errors import Forbidden, NotFound
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.membership import Membership
from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.visibility import HistoryVisibility, may_see_event
from homeserver.rooms.engine import Room, RoomCache, RoomHead
from homeserver.rooms.engine.snapshots import state_at
from storage.events import OUTLIER, REJECTED, EventStore, StoredEvent
from storage.room_history import RoomHistoryStore
from storage.server_memberships import Presence, ServerMembershipStore

MEMBER = "m.room.member"
HISTORY_VISIBILITY = "m.room.history_visibility"


class ServerAccess(Struct, frozen=True):
    """A room that a server may read. `in_room`: a user of it is joined now."""

    room: Room
    origin: str
    in_room: bool


class ServerGate:
    """Gives `ServerAccess`. One per process."""

    def __init__(
        self,
        *,
        server_name: str,
        cache: RoomCache,
        events: EventStore,
        memberships: ServerMembershipStore,
        history: RoomHistoryStore,
    ) -> None:
        self._server_name = server_name
        self._cache = cache
        self._events = events
        self._memberships = memberships
        self._history = history

    # Rooms.

    def check_acl(self, origin: str, head: RoomHead) -> None:
        """Raise Forbidden if the room's access control list shuts the server out."""
        if not head.server_acl.allows(origin):
            raise Forbidden("The server access control list of this room does not let your server take part")

    async def resident_room(self, origin: str, room_id: str) -> Room:
        """A room that this server is in and knows wholly: for handshakes, which ask it to speak for the room.

        Raises NotFound, in the same words for rooms that it never knew, left, or does not know wholly yet; Forbidden
        for a server that the room shuts out.
        """
        room = await self._cache.get(room_id)
        if room is None or not _is_wholly_ours(room.head, self._server_name):
            raise NotFound("This server is not in that room")
        self.check_acl(origin, room.head)
        return room

    async def access_room(self, origin: str, room_id: str, *, world_readable: bool = False) -> ServerAccess:
        """A room, for reading: by servers in it, and by all if `world_readable` says that the endpoint lets them and
        the room is so. Raises Forbidden.

        This server need not be in it any more: others, who are in the room as it was left here, may still need what
        only this server has of it, such as the events before our last user's leave.
        """
        access = self._access(origin, await self._cache.get(room_id), world_readable=world_readable)
        if access is None:
            raise Forbidden("Your server is not in that room")
        self.check_acl(origin, access.room.head)
        return access

    async def access_event(self, origin: str, event_id: str) -> tuple[ServerAccess, StoredEvent]:
        """An event that the server may have, whole or redacted (see `pdus`). Raises NotFound in all other cases."""
        stored = (await self._events.by_ids((event_id,))).get(event_id)
        if stored is not None:
            (room,) = (await self._cache.get_many(keys=(stored.room,))).values() or (None,)
            access = self._access(origin, room, world_readable=True)
            if access is not None and access.room.head.server_acl.allows(origin):
                (visible,) = await self.visible(access, (stored,))
                if visible or _is_followed(access, stored):
                    return access, stored
        raise NotFound("Event not found")

    @staticmethod
    def _access(origin: str, room: Room | None, *, world_readable: bool) -> ServerAccess | None:
        if room is None:
            return None
        in_room = origin in room.head.hosts or origin in (room.head.partial_servers or ())
        open_to_all = world_readable and room.head.history_visibility is HistoryVisibility.WORLD_READABLE
        return ServerAccess(room, origin, in_room) if in_room or open_to_all else None

    # Events.

    async def pdus(self, access: ServerAccess, events: Sequence[StoredEvent]) -> list[bytes]:
        """The events as the server gets them, in their order, as JSON of the federation's form.

        Rejected ones are left out, and so is what a server outside the room may not see.
        """
        version = access.room.head.version
        found: list[bytes] = []
        for stored, visible in zip(events, await self.visible(access, events), strict=True):
            if visible:
                found.append(stored.pdu.encode())
            elif _is_followed(access, stored):
                found.append(_redacted(stored.pdu, version))
        return found

    async def visible(self, access: ServerAccess, events: Sequence[StoredEvent]) -> list[bool]:
        """Which of the events, of any rooms, the server may have whole.

        No query where the room's history is shared and the server in the room; otherwise one for all, and two more if
        history from before this server was in the room is among them.
        """
        verdicts = [_at_once(access, stored) for stored in events]
        unsure = [place for place, verdict in enumerate(verdicts) if verdict is None]
        if unsure:
            parts = await self._parts(access, [events[place] for place in unsure])
            for place in unsure:
                verdicts[place] = parts[events[place].event_id].may_see(events[place])
        return [bool(verdict) for verdict in verdicts]

    async def _parts(self, access: ServerAccess, events: Sequence[StoredEvent]) -> Mapping[str, _Part]:
        """The server's part in the room at each of those events, by id."""
        room, origin = access.room.key, access.origin
        invited = any(stored.visibility == HistoryVisibility.INVITED for stored in events)
        presences = await self._memberships.presences(room, origin, invited=invited)
        parts = {stored.event_id: _part_in_stream(presences, stored.position) for stored in events}
        # Positions say nothing of history that was fetched later: there the state itself is asked.
        old = [stored for stored in events if stored.position <= 0]
        if old:
            wanted = {(room, stored.snapshot) for stored in old if stored.snapshot}
            chains = await self._history.chains(sorted(wanted))
            states = {snapshot: state_at(chain) for (_, snapshot), chain in chains.items()}
            everything = BitMap.union(*states.values()) if states else BitMap()
            members = await self._memberships.memberships_at(room, origin, everything)
            joined = BitMap(ordinal for ordinal, membership in members.items() if membership == "join")
            called = BitMap(ordinal for ordinal, membership in members.items() if membership == "invite")
            later = any(presence.membership == "join" for presence in presences)
            for stored in old:
                state = states.get(stored.snapshot or 0, BitMap())
                parts[stored.event_id] = _Part(
                    joined=state.intersect(joined), invited=state.intersect(called), joined_later=later
                )
        return parts


class _Part(Struct, frozen=True):
    """What the server's users were in the state before an event, any of them, and whether any was joined later."""

    joined: bool
    invited: bool
    joined_later: bool

    def may_see(self, stored: StoredEvent) -> bool:
        membership = Membership.JOIN if self.joined else Membership.INVITE if self.invited else None
        return may_see_event(
            visibility=HistoryVisibility(stored.visibility),
            membership=membership,
            joined_later=self.joined_later,
            visibility_after=_visibility_after(stored),
        )


def _is_wholly_ours(head: RoomHead, server_name: str) -> bool:
    """Whether a user of the server is in the room, and all of its members are known here (MSC3706)."""
    return head.is_resident(server_name) and head.partial_servers is None


def _part_in_stream(presences: Sequence[Presence], position: int) -> _Part:
    before = {
        presence.membership
        for presence in presences
        if presence.since < position and (presence.until is None or position <= presence.until)
    }
    later = any(
        presence.membership == "join" and (presence.until is None or presence.until > position)
        for presence in presences
    )
    return _Part(joined="join" in before, invited="invite" in before, joined_later=later)


def _at_once(access: ServerAccess, stored: StoredEvent) -> bool | None:
    """Whether the server may see the event, as far as it can be told without asking when it was in the room."""
    if stored.room != access.room.key or stored.flags & REJECTED:
        return False
    if stored.flags & OUTLIER:
        # Of the state or below it: every server in the room has that, or gets it with the state.
        return access.in_room and stored.state_key is not None
    visibility = HistoryVisibility(stored.visibility)
    if visibility is HistoryVisibility.WORLD_READABLE:
        return True
    if not access.in_room:
        return None
    tail = f":{access.origin}"
    own = stored.sender.endswith(tail) or (stored.type == MEMBER and (stored.state_key or "").endswith(tail))
    return True if own or visibility is HistoryVisibility.SHARED else None


def _visibility_after(stored: StoredEvent) -> HistoryVisibility | None:
    if stored.type != HISTORY_VISIBILITY or stored.state_key != "":
        return None
    return HistoryVisibility.from_content(orjson.loads(stored.pdu)["content"])


def _is_followed(access: ServerAccess, stored: StoredEvent) -> bool:
    """Whether the server needs to know of the event's place, whatever it says."""
    return access.in_room and stored.room == access.room.key and not stored.flags & (REJECTED | OUTLIER)


def _redacted(pdu: str, version: RoomVersion) -> bytes:
    return encode_canonical(redact(orjson.loads(pdu), version), strict=version.strict_canonical_json)
