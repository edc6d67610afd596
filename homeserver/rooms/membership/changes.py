# SPDX-License-Identifier: Apache-2.0
"""Membership sent as state: `PUT /rooms/{roomId}/state/m.room.member/{userId}` means one of the verbs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.errors import BadJson, Forbidden
from homeserver.protocol.membership import Membership
from homeserver.rooms.actor import Actor
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.membership.ban import Banning
from homeserver.rooms.membership.invite import Inviting
from homeserver.rooms.membership.join import Joining
from homeserver.rooms.membership.kick import Kicking
from homeserver.rooms.membership.knock import Knocking
from homeserver.rooms.membership.leave import Leaving
from homeserver.rooms.membership.unban import Unbanning


class MembershipChanges:
    """Every verb that a member event can mean."""

    def __init__(
        self,
        *,
        cache: RoomCache,
        joining: Joining,
        inviting: Inviting,
        leaving: Leaving,
        kicking: Kicking,
        banning: Banning,
        unbanning: Unbanning,
        knocking: Knocking,
    ) -> None:
        self._cache = cache
        self._joining = joining
        self._inviting = inviting
        self._leaving = leaving
        self._kicking = kicking
        self._banning = banning
        self._unbanning = unbanning
        self._knocking = knocking

    async def change(self, actor: Actor, room_id: str, user_id: str, content: Mapping[str, Any]) -> str:
        """Do what a member event of this content says; the event id. Raises as the verbs do, and BadJson."""
        own = user_id == actor.user_id
        match Membership.from_content(content):
            case Membership.JOIN if own:
                return await self._joining.join(actor, room_id, extra=content)
            case Membership.KNOCK if own:
                return await self._knocking.knock(actor, room_id, extra=content)
            case Membership.JOIN | Membership.KNOCK:
                raise Forbidden("Nobody can join or knock for another user")
            case Membership.INVITE:
                return await self._inviting.invite(actor, room_id, user_id, extra=content)
            case Membership.BAN:
                return await self._banning.ban(actor, room_id, user_id, extra=content)
            case Membership.LEAVE if own:
                return await self._leaving.leave(actor, room_id, extra=content)
            case Membership.LEAVE:
                room = await self._cache.get(room_id)
                if room is not None and room.head.membership(user_id) == "ban":
                    return await self._unbanning.unban(actor, room_id, user_id, extra=content)
                return await self._kicking.kick(actor, room_id, user_id, extra=content)
            case None:
                raise BadJson("membership must be one of join, invite, leave, ban, knock")
