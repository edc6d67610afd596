# SPDX-License-Identifier: Apache-2.0
"""Setting state. Client-server API, "Room state", `PUT /rooms/{roomId}/state/…`.

Owns what is asked beyond the room version's rules: canonical aliases must point here, power levels must be levels, a
part in a call is its user's own, guests leave when they are no longer welcome. Member events are turned over to the
membership verbs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from homeserver.errors import BadJson, Forbidden, NotFound
from homeserver.needs import Protocol
from homeserver.protocol.call_members import check_call_member
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.protocol.power_levels import DEFAULT_LEVELS, parse_level
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.aliases import CANONICAL, Aliases
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead, SendTransaction
from homeserver.rooms.membership.changes import MembershipChanges
from homeserver.rooms.membership.writing import MEMBER
from homeserver.rooms.refusals import not_joined
from homeserver.rooms.same_content import same_content

GUEST_ACCESS = "m.room.guest_access"
_MAX_ASKED = 3


class Guests(Protocol):
    """Knows which users of this server are guests."""

    async def guests_among(self, user_ids: Collection[str]) -> Collection[str]:
        """Those of the users who are guests."""


class _Stands(Exception):
    """The state is there already, and so nothing is to be written."""


class SettingState:
    """Sends state events."""

    def __init__(
        self, *, engine: RoomEngine, changes: MembershipChanges, aliases: Aliases, guests: Guests
    ) -> None:
        self._engine = engine
        self._changes = changes
        self._aliases = aliases
        self._guests = guests

    async def set_state(
        self,
        actor: Actor,
        room_id: str,
        event_type: str,
        state_key: str,
        content: Mapping[str, Any],
        *,
        transaction: SendTransaction | None = None,
    ) -> str:
        """Set a state event; its id. The same content by the same sender again makes no new event.

        With a transaction that stands already: the id of its event. Memberships know no transactions.

        Raises Forbidden, BadJson, InvalidParam, BadAlias, AuthError, EventFormatError, CanonicalJsonError and what the
        membership verbs raise.
        """
        if event_type == MEMBER:
            if not is_valid_user_id(state_key):
                raise BadJson("The state key of m.room.member must be a user id")
            return await self._changes.change(actor, room_id, state_key, content)
        check_not_suspended(actor)
        if event_type == "m.room.create":
            raise Forbidden("A room is created only once")
        await self._check_content(actor, room_id, event_type, state_key, content)
        draft = Draft(event_type, actor.user_id, content, state_key, transaction=transaction)
        if event_type == GUEST_ACCESS and state_key == "" and content.get("guest_access") != "can_join":
            return await self._close_to_guests(draft, room_id)
        return await self._set(draft, room_id)

    async def _check_content(
        self, actor: Actor, room_id: str, event_type: str, state_key: str, content: Mapping[str, Any]
    ) -> None:
        if state_key != "" or event_type not in (CANONICAL, "m.room.power_levels"):
            return
        room = await self._engine.cache.get(room_id)
        if room is None or not room.head.is_joined(actor.user_id):
            raise not_joined(actor.user_id, room_id)
        if event_type == CANONICAL:
            await self._aliases.check_canonical(room_id, content)
        else:
            check_levels(room.head.version, content)

    async def _set(self, draft: Draft, room_id: str, leaving: Collection[str] = ()) -> str:
        """Write the draft, and the leaving of those users if they are in the room."""
        first: list[str] = []

        def plan(head: RoomHead) -> Sequence[Draft]:
            if not head.is_joined(draft.sender):
                raise not_joined(draft.sender, room_id)
            assert draft.state_key is not None
            check_call_member(draft.type, draft.state_key, draft.sender, head.power_levels)
            present = head.state_event(draft.type, draft.state_key)
            gone = [
                Draft(MEMBER, user, {"membership": "leave"}, user) for user in leaving if head.is_joined(user)
            ]
            first.clear()
            if (
                present is not None
                and present.stored.sender == draft.sender
                and same_content(present.event.content, draft.content)
            ):
                first.append(present.stored.event_id)
                if draft.transaction is not None and not gone:
                    raise _Stands  # nothing would carry the transaction
                return gone
            return (draft, *gone)

        try:
            written = await self._engine.write(
                room_id, plan, users=(draft.sender, *leaving), transaction=draft.transaction
            )
        except NotFound as error:
            raise not_joined(draft.sender, room_id) from error
        except _Stands:
            return first[0]
        if first:
            return first[0]
        return written.events[0].stored.event_id if written.events else written.event_id

    async def _close_to_guests(self, draft: Draft, room_id: str) -> str:
        """Set the state, and have the guests leave who are there ("Guest access", server behaviour).

        One who came while it was found out who is a guest is sent off in another round.
        """
        event_id = ""
        known: set[str] = set()
        for _ in range(_MAX_ASKED):
            room = await self._engine.cache.get(room_id)
            if room is None:
                raise not_joined(draft.sender, room_id)
            newcomers = set(room.head.joined_users()) - known
            if event_id and not newcomers:
                break
            known |= newcomers
            event_id = await self._set(draft, room_id, await self._guests.guests_among(newcomers))
            draft = replace(draft, transaction=None)  # what follows is another write
        return event_id


def check_levels(version: RoomVersion, content: Mapping[str, Any]) -> None:
    """Raise BadJson unless every level of a power levels content is one in this room version."""
    for name in DEFAULT_LEVELS:
        if name in content and parse_level(version, content[name]) is None:
            raise BadJson(f"{name} must be an integer")
    for name in ("users", "events", "notifications"):
        entries = content.get(name, {})
        if not isinstance(entries, Mapping):
            raise BadJson(f"{name} must be an object")
        if any(parse_level(version, level) is None for level in entries.values()):
            raise BadJson(f"{name} must hold integers")
    if not all(map(is_valid_user_id, content.get("users", {}))):
        raise BadJson("users must be keyed by user ids")
