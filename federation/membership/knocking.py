# SPDX-License-Identifier: Apache-2.0
"""Knocking on rooms of other servers. Server-server API, "Knocking upon a room"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from federation.client.answers import MembershipTemplate
from federation.membership.asking import candidates, first_to_help
from federation.membership.joining import spoken_version
from federation.membership.templates import Templates
from homeserver.errors import Forbidden
from homeserver.needs import Protocol
from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.rooms.arrival import OutOfBand
from homeserver.rooms.intake.incoming import Incoming
from homeserver.rooms.refusals import unknown_room


class KnockCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def make_membership(
        self, destination: str, kind: Any, room_id: str, user_id: str, *, versions: Sequence[str] = ()
    ) -> MembershipTemplate: ...

    async def send_knock(
        self, destination: str, room_id: str, event_id: str, pdu: Mapping[str, Any]
    ) -> Sequence[Mapping[str, Any]]: ...


class Elsewhere(Protocol):
    """What all processes know of; `JoinsElsewhere` is one."""

    async def tell(self, room_id: str, version: RoomVersion, handshake: object) -> None: ...
    def end(self, room_id: str, handshake: object) -> None: ...


class RemoteKnocking:
    """One per process."""

    def __init__(
        self,
        *,
        calls: KnockCalls,
        out_of_band: OutOfBand,
        templates: Templates,
        elsewhere: Elsewhere,
        server_name: str,
    ) -> None:
        self._calls = calls
        self._out_of_band = out_of_band
        self._templates = templates
        self._elsewhere = elsewhere
        self._server_name = server_name

    async def knock(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str:
        """As `RemoteRooms.knock`."""
        return await first_to_help(
            f"knocking on {room_id}",
            candidates(self._server_name, servers),
            lambda server: self._knock_via(server, user_id, room_id, content),
            nobody=unknown_room(room_id),
        )

    async def _knock_via(self, server: str, user_id: str, room_id: str, content: Mapping[str, Any]) -> str:
        versions = [name for name, version in ROOM_VERSIONS.items() if version.knock]
        template = await self._calls.make_membership(server, "knock", room_id, user_id, versions=versions)
        version = spoken_version(template)
        if not version.knock:
            raise Forbidden("You don't have permission to knock: the room's version does not know knocking")
        knock = self._templates.rebuild(
            server, template, version, room_id=room_id, user_id=user_id, content=content
        )
        handshake = object()
        try:
            # Whoever turns the knock down may be heard before the answer to it, and by another process.
            await self._elsewhere.tell(room_id, version, handshake)
            await self._send(server, version, knock)
        finally:
            self._elsewhere.end(room_id, handshake)
        return knock.event.event_id

    async def _send(self, server: str, version: RoomVersion, knock: BuiltEvent) -> None:
        room_id = knock.event.room_id
        shown = await self._calls.send_knock(server, room_id, knock.event.event_id, knock.event.pdu)
        # What is shown was signed by nobody we asked: it is shown, and never believed.
        of_the_room = [event for event in shown if event.get("room_id", room_id) == room_id]
        event = Incoming(knock.event, knock.json_bytes.decode())
        await self._out_of_band.knocked(version, event, of_the_room)
