# SPDX-License-Identifier: Apache-2.0
"""Inviting a user into a room. Client-server API, "Room membership", "Invite permission", "Stripped state"."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from homeserver.errors import Forbidden, InviteBlocked, Unknown
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.membership.member_content import MemberProfiles, check_target, member_content
from homeserver.rooms.membership.writing import MEMBER, require_joined, write_member
from homeserver.rooms.refusals import already_joined, insufficient_power
from homeserver.rooms.stripped_state import stripped_state


class InvitePermissions(Protocol):
    """Who may invite whom, as users set it (`m.invite_permission_config`)."""

    async def blocking(self, inviter: str, invited: Sequence[str]) -> Collection[str]:
        """Those of the invited who take no invite from the inviter."""


class Inviting:
    """Invites users of this server."""

    def __init__(
        self, *, engine: RoomEngine, profiles: MemberProfiles, permissions: InvitePermissions
    ) -> None:
        self._engine = engine
        self._profiles = profiles
        self._permissions = permissions

    async def check_invitees(self, inviter: str, invited: Sequence[str]) -> None:
        """Raise unless each can be invited by the inviter, whatever the room.

        Raises InvalidParam for what is no user id, Unknown for users of servers that cannot be reached, InviteBlocked.
        """
        for user_id in invited:
            check_target(user_id)
            if domain_of(user_id) != self._engine.server_name:
                raise Unknown(f"Cannot invite {user_id}: their server cannot be reached from here")
        blocking = await self._permissions.blocking(inviter, invited)
        if blocking:
            raise InviteBlocked(f"{min(blocking)} does not accept your invite")

    async def invite(
        self,
        actor: Actor,
        room_id: str,
        user_id: str,
        *,
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Invite a user; the event id. Raises Forbidden and what `check_invitees` raises."""
        check_not_suspended(actor)
        sender = actor.user_id
        await self.check_invitees(sender, (user_id,))
        profiles = await self._profiles.member_profiles((user_id,))

        def plan(head: RoomHead) -> Draft:
            require_joined(head, sender)
            match head.membership(user_id):
                case "join":
                    raise already_joined(user_id)
                case "ban":
                    raise Forbidden(f"{user_id} is banned from the room")
            levels = head.power_levels
            if levels.user_level(sender) < levels.invite:
                raise insufficient_power("You don't have permission to invite users to this room")
            inviter = self._engine.member_event(head, sender)
            return Draft(
                MEMBER,
                sender,
                member_content("invite", profile=profiles.get(user_id), reason=reason, extra=extra),
                user_id,
                stripped_state=stripped_state(head, () if inviter is None else (inviter,)),
            )

        return await write_member(self._engine, room_id, sender, user_id, plan)
