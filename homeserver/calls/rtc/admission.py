# SPDX-License-Identifier: Apache-2.0
"""Lets people into group calls: from an OpenID token to a LiveKit token (MSC4195; what lk-jwt-service does elsewhere).

Owns the order: who asks is proven first, then the LiveKit room is made if they may begin calls, then they get a token
for that room and their own name, and for nothing else. Others can only join what was begun, provided that LiveKit
itself makes no rooms (`room.auto_create: false`).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from homeserver.calls.rtc.callers import Caller, Callers
from homeserver.calls.rtc.leaves import DelegatedLeaves
from homeserver.calls.rtc.naming import LEGACY_SLOT, legacy_identity, livekit_identity, livekit_room
from homeserver.calls.rtc.sfu import LiveKitRooms
from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.errors import BadJson, LimitExceeded, Unauthorized
from storage.livekit_tickets import LiveKitTicketStore

MOST_TICKETS: Final = 1000
"""Of a user, under different names or into different calls, in a day: who made up names without end would else fill the
table of those who must be found when they are removed from a room."""
_COME_AGAIN: Final = 600_000
"""Milliseconds."""


class Proof(Struct, frozen=True, kw_only=True):
    """An OpenID token and the server that gave it."""

    access_token: str
    server_name: str

    def __repr__(self) -> str:
        return f"Proof({self.server_name!r}, …)"


class Member(Struct, frozen=True, kw_only=True):
    """A member of a slot, as they say. `device_id` is only claimed: it distinguishes the user's own devices."""

    room_id: str
    slot_id: str
    user_id: str
    device_id: str
    id: str

    @property
    def livekit_room(self) -> str:
        return livekit_room(self.room_id, self.slot_id)

    @property
    def identity(self) -> str:
        return livekit_identity(self.user_id, self.device_id, self.id)


class Ticket(Struct, frozen=True, kw_only=True):
    """Where to connect, and with what."""

    url: str
    jwt: str

    def __repr__(self) -> str:
        return f"Ticket({self.url!r}, …)"


class Admission:
    """One per process. `url` is LiveKit's, as clients reach it."""

    def __init__(
        self,
        *,
        url: str,
        callers: Callers,
        rooms: LiveKitRooms,
        tokens: LiveKitTokens,
        leaves: DelegatedLeaves,
        tickets: LiveKitTicketStore,
    ) -> None:
        self._url = url
        self._callers = callers
        self._rooms = rooms
        self._tokens = tokens
        self._leaves = leaves
        self._tickets = tickets

    async def admit(self, proof: Proof, member: Member, delay_id: str | None = None) -> Ticket:
        """Let a member of a slot in, and look after their delayed leave event if they hand one over.

        Raises Unauthorized, also where the token is not that user's; Forbidden, RemoteServerFailed, LimitExceeded;
        BadJson for events of other servers' users, and NotFound for what is no scheduled event of that user and room.
        """
        caller = await self._caller(proof, member)
        return await self._enter(caller, member.room_id, member.livekit_room, member.identity, delay_id)

    async def admit_by_device(
        self, proof: Proof, *, room_id: str, device_id: str, delay_id: str | None = None
    ) -> Ticket:
        """Let a device in, by the older form. Raises as `admit`."""
        caller = await self._callers.caller(
            room_id=room_id, server_name=proof.server_name, token=proof.access_token
        )
        room, identity = livekit_room(room_id, LEGACY_SLOT), legacy_identity(caller.user_id, device_id)
        return await self._enter(caller, room_id, room, identity, delay_id)

    async def delegate(self, proof: Proof, member: Member, delay_id: str) -> None:
        """Look after the delayed leave event of somebody who is in a call already. Raises as `admit`."""
        caller = await self._caller(proof, member)
        delay_ms = await self._delegated(caller, member.room_id, delay_id)
        await self._leaves.take_over(member.livekit_room, member.identity, delay_id, delay_ms)

    async def _caller(self, proof: Proof, member: Member) -> Caller:
        caller = await self._callers.caller(
            room_id=member.room_id, server_name=proof.server_name, token=proof.access_token
        )
        if member.user_id != caller.user_id:
            raise Unauthorized("The OpenID token is of another user")
        return caller

    async def _delegated(self, caller: Caller, room_id: str, delay_id: str) -> int:
        if not caller.is_own:
            raise BadJson("Delayed events are looked after for this server's users only")
        return await self._leaves.check(caller.user_id, room_id, delay_id)

    async def _enter(
        self, caller: Caller, room_id: str, room: str, identity: str, delay_id: str | None
    ) -> Ticket:
        delay_ms = None if delay_id is None else await self._delegated(caller, room_id, delay_id)
        if caller.full_access:
            await self._rooms.make(room)
        if delay_id is not None and delay_ms is not None:
            await self._leaves.take_over(room, identity, delay_id, delay_ms)
        noted = await self._tickets.put(
            livekit_room=room,
            identity=identity,
            room_id=room_id,
            user_id=caller.user_id,
            most=MOST_TICKETS,
        )
        if not noted:
            raise LimitExceeded(_COME_AGAIN, "You entered too many calls today")
        return Ticket(url=self._url, jwt=self._tokens.joining(room, identity))
