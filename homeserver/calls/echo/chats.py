# SPDX-License-Identifier: Apache-2.0
"""The chats the echo account is in: chats of two, it and a user of this server.

Owns which invites it takes, when it leaves, and what it says of encryption. Refusals of the room are taken as they are:
whoever made a room in which the echo may not speak gets no echo.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.errors import MatrixError
from homeserver.needs import Protocol
from homeserver.protocol.errors import ProtocolError
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.actor import Actor
from homeserver.rooms.engine import Room

logger = logging.getLogger(__name__)

MEMBER = "m.room.member"
ENCRYPTION = "m.room.encryption"
TWO = 2
MOST_DECLINING = 20
"""Invites that are being declined at once."""

CANNOT_HEAR = (
    "This chat is end-to-end encrypted, and the echo has no keys: it cannot hear calls made here. Leave this chat and "
    "start another one with the echo, with encryption switched off."
)
REFUSALS = (MatrixError, ProtocolError)


class Rooms(Protocol):
    """Rooms in memory (`homeserver.rooms.engine.RoomCache`)."""

    async def get(self, room_id: str) -> Room | None: ...


class Joining(Protocol):
    async def join(self, actor: Actor, room_id: str) -> str: ...


class Leaving(Protocol):
    async def leave(self, actor: Actor, room_id: str, *, reason: str | None = None) -> str: ...


class Sending(Protocol):
    async def send(self, actor: Actor, room_id: str, event_type: str, content: Mapping[str, Any]) -> str: ...


class EchoChats:
    """Takes care of the rooms."""

    def __init__(
        self, *, actor: Actor, rooms: Rooms, joining: Joining, leaving: Leaving, sending: Sending
    ) -> None:
        self._actor = actor
        self._rooms = rooms
        self._joining = joining
        self._leaving = leaving
        self._sending = sending
        self._declining = 0

    async def invited(self, room_id: str, stripped: Sequence[Mapping[str, Any]]) -> None:
        """Join a chat of two if a user of this server asks; decline everything else."""
        own = self._actor.user_id
        inviter = next(
            (
                str(event.get("sender"))
                for event in stripped
                if event.get("type") == MEMBER and event.get("state_key") == own
            ),
            "",
        )
        room = await self._rooms.get(room_id)
        local = domain_of(inviter) == domain_of(own) if inviter else False
        if room is None or not local or not self._is_of_two(room):
            self._decline(room_id)
            return
        try:
            await self._joining.join(self._actor, room_id)
            await self.look(room_id, warn=True)
        except REFUSALS as error:
            logger.info("the echo account could not join %s: %s", room_id, error)

    def _decline(self, room_id: str) -> None:
        """Beside everything else: another server may take its time to hear of it. What is too much stays open."""
        if self._declining >= MOST_DECLINING:
            return
        self._declining += 1

        async def decline() -> None:
            reason = "The echo account is for chats of two with users of its own server"
            try:
                await self._leaving.leave(self._actor, room_id, reason=reason)
            except REFUSALS as error:
                logger.info("the echo account could not decline an invite to %s: %s", room_id, error)
            except Exception:
                logger.exception("the echo account could not decline an invite to %s", room_id)
            finally:
                self._declining -= 1

        Deferred.fromCoroutine(decline())

    async def look(self, room_id: str, *, warn: bool) -> None:
        """Its members have changed, or it was joined, or encryption was switched on (`warn`)."""
        room = await self._rooms.get(room_id)
        if room is None or not room.head.is_joined(self._actor.user_id):
            return
        try:
            if not self._is_of_two(room):
                await self._leaving.leave(self._actor, room_id)
            elif warn and room.head.state_event(ENCRYPTION) is not None:
                await self.say(room_id, CANNOT_HEAR)
        except REFUSALS as error:
            logger.info("the echo account could not leave %s: %s", room_id, error)

    def _is_of_two(self, room: Room) -> bool:
        return room.head.joined_count + room.head.invited_count == TWO

    async def say(self, room_id: str, text: str, **more: Any) -> None:
        """A notice."""
        await self.send(room_id, "m.room.message", {"msgtype": "m.notice", "body": text, **more})

    async def send(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> bool:
        """An event; False if the room does not let it in."""
        try:
            await self._sending.send(self._actor, room_id, event_type, content)
        except REFUSALS as error:
            logger.info("the echo account could not send to %s: %s", room_id, error)
            return False
        return True

    async def other_user(self, room_id: str) -> str | None:
        """The user of this server that it is in the chat with; None where it is not such a chat any more."""
        own = self._actor.user_id
        room = await self._rooms.get(room_id)
        if room is None or not self._is_of_two(room) or not room.head.is_joined(own):
            return None
        others = (user for user in room.head.joined_users() if user != own)
        return next((user for user in others if domain_of(user) == domain_of(own)), None)
