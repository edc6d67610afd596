# SPDX-License-Identifier: Apache-2.0
"""Knocking: asking to be invited. Client-server API, "Knocking on rooms"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.errors import Forbidden
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.locating import LikelyServers
from homeserver.rooms.membership.member_content import MemberProfiles, member_content
from homeserver.rooms.membership.writing import MEMBER, write_member
from homeserver.rooms.refusals import already_joined
from homeserver.rooms.remote import RemoteRooms
from homeserver.rooms.stripped_state import stripped_state


class Knocking:
    def __init__(
        self, *, engine: RoomEngine, profiles: MemberProfiles, remote: RemoteRooms, likely: LikelyServers
    ) -> None:
        self._engine = engine
        self._profiles = profiles
        self._remote = remote
        self._likely = likely

    async def knock(
        self,
        actor: Actor,
        room_id: str,
        *,
        servers: Sequence[str] = (),
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Knock; the member event's id. Knocking again gives only a new reason.

        `servers` may be in the room, for one that this server is not in. Raises Forbidden, NotFound for a room that
        nobody knows, and what `RemoteRooms.knock` raises.
        """
        check_not_suspended(actor)
        user_id = actor.user_id
        profile = (await self._profiles.member_profiles((user_id,))).get(user_id)
        room = await self._engine.cache.get(room_id)
        if room is None or not room.head.is_resident(self._engine.server_name):
            content = member_content("knock", profile=profile, reason=reason, extra=extra)
            likely = await self._likely.of(room_id, user_id, servers)
            return await self._remote.knock(user_id, room_id, servers=likely, content=content)

        def plan(head: RoomHead) -> Draft | None:
            check_may_knock(head, user_id)
            if head.membership(user_id) == "knock" and reason is None and extra is None:
                return None
            content = member_content("knock", profile=profile, reason=reason, extra=extra)
            return Draft(MEMBER, user_id, content, user_id, stripped_state=stripped_state(head))

        return await write_member(self._engine, room_id, user_id, user_id, plan)


def check_may_knock(head: RoomHead, user_id: str) -> None:
    """Raise Forbidden unless the room lets the user knock."""
    if not is_knockable(head):
        raise Forbidden("You don't have permission to knock: the room's join rule does not let users knock")
    match head.membership(user_id):
        case "join":
            raise already_joined(user_id)
        case "invite":
            raise Forbidden("You are invited to the room already")
        case "ban":
            raise Forbidden("You are banned from this room")


def is_knockable(head: RoomHead) -> bool:
    """Whether the room has a join rule, in a version that knows it, by which users may knock."""
    rule = head.join_rule
    return (rule == "knock" and head.version.knock) or (
        rule == "knock_restricted" and head.version.knock_restricted
    )
