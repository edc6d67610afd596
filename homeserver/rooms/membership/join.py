# SPDX-License-Identifier: Apache-2.0
"""Joining a room. Client-server API, "Joining rooms", "Restricted rooms", "Guest access", "Room upgrades".

Owns the conditions of restricted joins and who vouches for them, which guests may come in, and that joining twice is
joining once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from homeserver.errors import Forbidden, GuestAccessForbidden
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.membership.member_content import MemberProfiles, member_content
from homeserver.rooms.membership.personal_settings import PersonalSettings, carry_settings_over
from homeserver.rooms.membership.writing import MEMBER, write_member
from homeserver.rooms.refusals import unknown_room
from homeserver.rooms.same_content import same_content
from homeserver.rooms.user_rooms import UserRooms


class Joining:
    """Lets users of this server into rooms of this server."""

    def __init__(
        self,
        *,
        engine: RoomEngine,
        profiles: MemberProfiles,
        user_rooms: UserRooms,
        settings: PersonalSettings,
    ) -> None:
        self._engine = engine
        self._profiles = profiles
        self._user_rooms = user_rooms
        self._settings = settings

    async def join(
        self,
        actor: Actor,
        room_id: str,
        *,
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Join the room, or do nothing if the user is there and `extra` is None; the member event's id.

        `extra` (a content sent as state) always makes a new member event unless it is the present one's.
        Raises NotFound for a room that is not known here, Forbidden, UserSuspended.
        """
        check_not_suspended(actor)
        user_id = actor.user_id
        room = await self._engine.cache.get(room_id)
        if room is None:
            raise unknown_room(room_id)
        was_joined = room.head.is_joined(user_id)
        profile = (await self._profiles.member_profiles((user_id,))).get(user_id)
        elsewhere: Set[str] = frozenset()
        if is_restricted(room.head) and room.head.membership(user_id) not in ("join", "invite"):
            elsewhere = {standing.room_id for standing in await self._user_rooms.joined(user_id)}

        def plan(head: RoomHead) -> Draft | None:
            joined = head.is_joined(user_id)
            if joined and extra is None:
                return None
            content = member_content("join", profile=profile, reason=reason, extra=extra)
            if joined:
                present = self._engine.member_event(head, user_id)
                if present is not None and same_content(present.event.content, content):
                    return None
            else:
                authoriser = check_may_join(
                    head, user_id, elsewhere, is_guest=actor.is_guest, server_name=self._engine.server_name
                )
                if authoriser is not None:
                    content["join_authorised_via_users_server"] = authoriser
            return Draft(MEMBER, user_id, content, user_id)

        event_id = await write_member(self._engine, room_id, user_id, user_id, plan)
        if not was_joined:
            await self._carry_settings_over(user_id, room.head)
        return event_id

    async def _carry_settings_over(self, user_id: str, head: RoomHead) -> None:
        predecessor = head.content("m.room.create").get("predecessor")
        old_room_id = predecessor.get("room_id") if isinstance(predecessor, Mapping) else None
        if isinstance(old_room_id, str):
            standings = await self._user_rooms.of(user_id)
            if any(standing.room_id == old_room_id for standing in standings.values()):
                await carry_settings_over(self._settings, user_id, old_room_id, head.room_id)


def check_may_join(
    head: RoomHead, user_id: str, elsewhere: Set[str], *, is_guest: bool, server_name: str
) -> str | None:
    """Raise Forbidden unless the user, joined to the rooms `elsewhere`, may join.

    For a join that a restricted room's conditions allow, the member of `server_name` who vouches for it; otherwise
    None.
    """
    if is_guest and head.text("m.room.guest_access", "guest_access") != "can_join":
        raise GuestAccessForbidden("Guests may not join this room")
    if not must_meet_conditions(head, user_id):
        return None
    if elsewhere.isdisjoint(allowed_rooms(head)):
        raise Forbidden("You are not invited to this room, nor in any of the rooms whose members may join it")
    authoriser = next(who_may_invite(head, server_name), None)
    if authoriser is None:
        raise Forbidden("Nobody on this server may let you into the room")
    return authoriser


def must_meet_conditions(head: RoomHead, user_id: str) -> bool:
    """Whether the user may join only as somebody whom a restricted room's conditions let in.

    Raises Forbidden where they may not join at all.
    """
    membership = head.membership(user_id)
    if membership == "ban":
        raise Forbidden("You are banned from this room")
    if membership in ("join", "invite") or head.join_rule == "public":
        return False
    if not is_restricted(head):
        raise Forbidden("You are not invited to this room.")
    return True


def is_restricted(head: RoomHead) -> bool:
    """Whether members of other rooms may join."""
    rule = head.join_rule
    return (rule == "restricted" and head.version.restricted_joins) or (
        rule == "knock_restricted" and head.version.knock_restricted
    )


def allowed_rooms(head: RoomHead) -> list[str]:
    """The rooms whose members may join: the conditions of type `m.room_membership`."""
    allow = head.content("m.room.join_rules").get("allow")
    if not isinstance(allow, list):
        return []
    return [
        condition["room_id"]
        for condition in allow
        if isinstance(condition, Mapping)
        and condition.get("type") == "m.room_membership"
        and isinstance(condition.get("room_id"), str)
    ]


def who_may_invite(head: RoomHead, server_name: str) -> Iterator[str]:
    """Joined users of a server with the power to invite, those with a level of their own first."""
    levels = head.power_levels
    named = levels.content.get("users") if levels.content is not None else None
    candidates = [*levels.creators, *(named if isinstance(named, Mapping) else ())]
    for user_id in (*candidates, *head.members):
        if (
            head.is_joined(user_id)
            and user_id.endswith(f":{server_name}")
            and levels.user_level(user_id) >= levels.invite
        ):
            yield user_id
