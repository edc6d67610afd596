# SPDX-License-Identifier: Apache-2.0
"""Inviting a user into a room. Client-server API, "Room membership", "Invite permission", "Stripped state"."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from homeserver.errors import Forbidden, InviteBlocked
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.membership.member_content import MemberProfiles, check_target, member_content
from homeserver.rooms.membership.writing import MEMBER, require_joined, write_member
from homeserver.rooms.refusals import already_joined, insufficient_power
from homeserver.rooms.remote import RemoteRooms
from homeserver.rooms.stripped_state import stripped_state
from homeserver.rooms.whole_rooms import WholeRooms


class InvitePermissions(Protocol):
    """Who may invite whom, as users set it (`m.invite_permission_config`)."""

    async def blocking(self, inviter: str, invited: Sequence[str]) -> Collection[str]:
        """Those of the invited who take no invite from the inviter."""


class Inviting:
    """Invites users, those of other servers by way of their server."""

    def __init__(
        self,
        *,
        engine: RoomEngine,
        profiles: MemberProfiles,
        permissions: InvitePermissions,
        remote: RemoteRooms,
        whole: WholeRooms,
    ) -> None:
        self._engine = engine
        self._profiles = profiles
        self._permissions = permissions
        self._remote = remote
        self._whole = whole

    def is_elsewhere(self, user_id: str) -> bool:
        """Whether the user is of another server, which has to sign the invite."""
        return domain_of(user_id) != self._engine.server_name

    async def check_invitees(self, inviter: str, invited: Sequence[str]) -> None:
        """Raise unless each can be invited by the inviter, whatever the room.

        Raises InvalidParam for what is no user id, Unknown for users of servers that cannot be reached, InviteBlocked.
        """
        for user_id in invited:
            check_target(user_id)
            if self.is_elsewhere(user_id):
                self._remote.check_reachable(user_id)
        ours = [user_id for user_id in invited if not self.is_elsewhere(user_id)]
        blocking = await self._permissions.blocking(inviter, ours) if ours else ()
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
        """Invite a user; the event id. Raises Forbidden, what `check_invitees` raises, and `RemoteRooms.invite`."""
        check_not_suspended(actor)
        sender = actor.user_id
        await self.check_invitees(sender, (user_id,))
        profiles: Mapping[str, Mapping[str, str]] = (
            {} if self.is_elsewhere(user_id) else await self._profiles.member_profiles((user_id,))
        )

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

        await self._whole.knows(room_id, user_id)
        if self.is_elsewhere(user_id):
            return await self._remote.invite(
                room_id, user_id, lambda head: (plan(head),), users=(sender, user_id)
            )
        return await write_member(self._engine, room_id, sender, user_id, plan)
