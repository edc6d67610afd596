# SPDX-License-Identifier: Apache-2.0
"""`PUT /_matrix/federation/v1/invite` and `v2/invite`: a user of ours is invited (server-server API, "Inviting to a
room").

What is signed here is the event as it was read and checked, never the request's bytes: an invite, by a user of the
server that asks, of a user of ours, to the room and under the id that the path names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from federation.serving.acceptance import Receiving
from federation.serving.invite_state import read_invite_state
from federation.serving.invitees import Invitees
from federation.serving.offered import Offer, Reader, countersigned, offered_event, verified
from homeserver.errors import BadJson, Forbidden, IncompatibleRoomVersion, InvalidParam
from homeserver.needs import Protocol
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import essential_bytes
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import VerifyKey, origin_key_ids
from homeserver.rooms.engine import Room, RoomCache
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.intake.incoming import Incoming, Outcome
from homeserver.rooms.server_access import ServerGate
from homeserver.web.replies import Reply, json_response
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, FEDERATION_V2, Auth, Route

_MAX_BODY: Final = 1 << 20
"""Bytes: the invite and the seven pieces of state that go with it, at 64 KiB each, and some."""
_FIRST_VERSIONS: Final = ("1", "2")
"""What a room may be of that an invite of the first version of the endpoint is to, which does not say."""


class ServerKeys(Protocol):
    """The keys of other servers; `federation.keys.keyring.Keyring` is one."""

    async def request_keys(self, server_name: str, key_ids: Collection[str]) -> Mapping[str, VerifyKey]: ...


class OutOfBand(Protocol):
    """Memberships in rooms this server is not in; `homeserver.rooms.arrival.out_of_band.OutOfBand` is one."""

    async def invited(
        self, version: RoomVersion, event: Incoming, stripped_state: Sequence[Mapping[str, Any]]
    ) -> bool: ...


class Invite(Struct, frozen=True, kw_only=True):
    """An invite as another server sends it."""

    origin: str
    room_id: str
    event_id: str
    room_version: str
    event: object
    room_state: object


class ReceiveInvite:
    """See the module."""

    def __init__(
        self,
        *,
        signer: Signer,
        cache: RoomCache,
        gate: ServerGate,
        reader: Reader,
        keys: ServerKeys,
        intake: Receiving,
        out_of_band: OutOfBand,
        invitees: Invitees,
    ) -> None:
        self._signer = signer
        self._cache = cache
        self._gate = gate
        self._reader = reader
        self._keys = keys
        self._intake = intake
        self._out_of_band = out_of_band
        self._invitees = invitees

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "PUT",
                "/invite/{room_id}/{event_id}",
                handler,
                under=under,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_invites",
                max_body=_MAX_BODY,
            )
            for under, handler in ((FEDERATION_V1, self.respond_v1), (FEDERATION_V2, self.respond_v2))
        ]

    async def respond_v1(self, request: MatrixRequest) -> Reply:
        """Answer `[200, {"event": …}]`, as the first version does."""
        event = request.json_object()
        unsigned = event.get("unsigned")
        room_state = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        invite = Invite(
            origin=request.origin,
            room_id=request.param("room_id"),
            event_id=request.param("event_id"),
            room_version=_first_version(room_state),
            event=event,
            room_state=room_state,
        )
        return json_response(200, [200, {"event": await self.receive(invite)}])

    async def respond_v2(self, request: MatrixRequest) -> Reply:
        """Answer with the event, signed."""
        body = request.json_object()
        room_version = body.get("room_version")
        if not isinstance(room_version, str):
            raise BadJson("`room_version` must be a string")
        invite = Invite(
            origin=request.origin,
            room_id=request.param("room_id"),
            event_id=request.param("event_id"),
            room_version=room_version,
            event=body.get("event"),
            room_state=body.get("invite_room_state"),
        )
        return {"event": await self.receive(invite)}

    async def receive(self, invite: Invite) -> dict[str, Any]:
        """Have our user invited; the event with our signature.

        Raises IncompatibleRoomVersion, InvalidParam, BadJson, Forbidden, InviteBlocked.
        """
        version = ROOM_VERSIONS.get(invite.room_version)
        if version is None:
            raise IncompatibleRoomVersion(invite.room_version[:32])
        offer = Offer(
            origin=invite.origin, room_id=invite.room_id, event_id=invite.event_id, membership="invite"
        )
        event = offered_event(invite.event, version, offer)
        room = await self._cache.get(invite.room_id)
        self._check_room(invite.origin, version, room)
        await self._invitees.check(event.sender, event.state_key or "")
        stripped = await read_invite_state(self._reader, version, invite.room_id, invite.room_state)
        incoming = await verified(self._reader, version, event.pdu, invite.room_id)
        await self._check_origin_signed(invite.origin, incoming.event)
        signed = countersigned(incoming.event, self._signer)
        await self._record(version, _incoming(signed, incoming.event), stripped)
        return signed

    def _check_room(self, origin: str, version: RoomVersion, room: Room | None) -> None:
        if room is None:
            return
        if room.head.version is not version and room.head.extremities:
            raise InvalidParam("The room is of another version")
        if room.head.is_resident(self._signer.server_name):
            self._gate.check_acl(origin, room.head)
            # Whose invite the room could never take, and which so would only serve to have it signed.
            if origin not in room.head.other_hosts(self._signer.server_name):
                raise Forbidden("Your server is not in the room")

    async def _check_origin_signed(self, origin: str, event: Event) -> None:
        """Raise InvalidParam unless the inviter's server signed a third-party invite, too.

        In a room such an event needs no signature of its sender's server; here, where nothing else vouches for it, it
        does.
        """
        if "third_party_invite" not in event.content:
            return
        key_ids = origin_key_ids(event, origin)[:8]
        keys = await self._keys.request_keys(origin, key_ids) if key_ids else {}
        data = essential_bytes(event.pdu, event.room_version)
        signatures = event.pdu["signatures"].get(origin, {})
        if not any(key.verifies(data, signatures[key_id]) for key_id, key in keys.items()):
            raise InvalidParam("The event is not signed by the inviter's server")

    async def _record(
        self, version: RoomVersion, incoming: Incoming, stripped: Sequence[Mapping[str, Any]]
    ) -> None:
        if await self._out_of_band.invited(version, incoming, stripped):
            return
        room_id = incoming.event.room_id
        room = await self._cache.get(room_id)
        if room is None or not room.head.is_resident(self._signer.server_name):
            raise Forbidden("The invite is refused")
        # The room's own: it comes again with the next transaction, and until then it may lack what goes before it.
        (verdict,) = await self._intake.receive(room_id, (incoming,), users=(incoming.event.sender,))
        if verdict.outcome in (Outcome.REJECTED, Outcome.SOFT_FAILED):
            raise Forbidden(verdict.reason or "The room does not allow this invite")


def _incoming(pdu: dict[str, Any], event: Event) -> Incoming:
    version = event.room_version
    text = encode_canonical(pdu, strict=version.strict_canonical_json).decode()
    return Incoming(Event.from_pdu(pdu, version, event.event_id), text)


def _first_version(room_state: object) -> str:
    """The version of a room by the create event shown, if that is one of the first; else the very first."""
    for entry in room_state if isinstance(room_state, list) else ():
        if isinstance(entry, dict) and entry.get("type") == "m.room.create":
            content = entry.get("content")
            version = content.get("room_version") if isinstance(content, dict) else None
            return version if version in _FIRST_VERSIONS else _FIRST_VERSIONS[0]
    return _FIRST_VERSIONS[0]
