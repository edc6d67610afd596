# SPDX-License-Identifier: Apache-2.0
"""Lets people into group calls: from an OpenID token to a LiveKit token (MSC4195; what lk-jwt-service does elsewhere).

Owns the order: who asks is proven first, then the LiveKit room is made if they may begin calls, then they get a token
for that room and their own name, and for nothing else. Others can only join what was begun, provided that LiveKit
itself makes no rooms (`room.auto_create: false`).
"""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.calls.rtc.callers import Callers
from homeserver.calls.rtc.naming import LEGACY_SLOT, legacy_identity, livekit_identity, livekit_room
from homeserver.calls.rtc.sfu import LiveKitRooms
from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.errors import Unauthorized


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """An OpenID token and the server that gave it."""

    access_token: str
    server_name: str

    def __repr__(self) -> str:
        return f"Proof({self.server_name!r}, …)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Where to connect, and with what."""

    url: str
    jwt: str

    def __repr__(self) -> str:
        return f"Ticket({self.url!r}, …)"


class Admission:
    """One per process. `url` is LiveKit's, as clients reach it."""

    def __init__(self, *, url: str, callers: Callers, rooms: LiveKitRooms, tokens: LiveKitTokens) -> None:
        self._url = url
        self._callers = callers
        self._rooms = rooms
        self._tokens = tokens

    async def admit(
        self, proof: Proof, *, room_id: str, slot_id: str, user_id: str, device_id: str, member_id: str
    ) -> Ticket:
        """Let a member of a slot in. `device_id` is only claimed: it distinguishes the user's own devices.

        Raises Unauthorized, also where the token is not that user's; Forbidden, RemoteServerFailed, LimitExceeded.
        """
        room = livekit_room(room_id, slot_id)
        proven = await self._enter(proof, room_id, room, user_id)
        return self._ticket(room, livekit_identity(proven, device_id, member_id))

    async def admit_by_device(self, proof: Proof, *, room_id: str, device_id: str) -> Ticket:
        """Let a device in, by the older form. Raises as `admit`."""
        room = livekit_room(room_id, LEGACY_SLOT)
        proven = await self._enter(proof, room_id, room, None)
        return self._ticket(room, legacy_identity(proven, device_id))

    async def _enter(self, proof: Proof, room_id: str, room: str, claimed: str | None) -> str:
        caller = await self._callers.caller(
            room_id=room_id, server_name=proof.server_name, token=proof.access_token
        )
        if claimed is not None and claimed != caller.user_id:
            raise Unauthorized("The OpenID token is of another user")
        if caller.full_access:
            await self._rooms.make(room)
        return caller.user_id

    def _ticket(self, room: str, identity: str) -> Ticket:
        return Ticket(url=self._url, jwt=self._tokens.joining(room, identity))
