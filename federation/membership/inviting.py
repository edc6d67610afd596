# SPDX-License-Identifier: Apache-2.0
"""Inviting users of other servers into rooms this server is in. Server-server API, "Inviting to a room".

Their server signs the invite before the room gets it. What comes back is used for that signature and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from federation.client.errors import BadAnswer, RemoteError, RemoteFailure
from federation.membership.asking import as_told
from homeserver.errors import Forbidden, NotFound, RemoteServerFailed
from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.event_format import check_pdu_size
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.engine import Plan, Room, RoomCache
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from homeserver.rooms.stripped_state import TYPES

MOST_SIGNATURES: Final = 5
_SIGNATURE: Final = re.compile(r"[A-Za-z0-9+/]{86}={0,2}")
_KEY_ID: Final = re.compile(r"ed25519:[A-Za-z0-9_]{1,100}")


class InviteCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def invite(
        self,
        destination: str,
        room_id: str,
        event_id: str,
        pdu: Mapping[str, Any],
        *,
        room_version: str,
        invite_room_state: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]: ...

    async def exchange_third_party_invite(
        self, destination: str, room_id: str, event: Mapping[str, Any]
    ) -> None: ...


class Prepared(Protocol):
    """An event that is built and in no room yet."""

    @property
    def event(self) -> Event: ...

    @property
    def json(self) -> str: ...


class InviteIntake(Protocol):
    """Builds and takes in; `RoomIntake` is one."""

    async def prepare(
        self, room_id: str, plan: Plan, users: Sequence[str] = (), *, recommended: bool = False
    ) -> Prepared: ...

    async def receive(
        self, room_id: str, events: Sequence[Incoming], *, outbound: bool = False, users: Sequence[str] = ()
    ) -> list[Verdict]: ...


class MemberReader(Protocol):
    """Finds members' events; `RoomGate` does."""

    async def members(self, room: Room, users: Sequence[str]) -> Mapping[str, RoomEvent]: ...


class RemoteInviting:
    """One per process."""

    def __init__(
        self, *, calls: InviteCalls, intake: InviteIntake, cache: RoomCache, members: MemberReader
    ) -> None:
        self._calls = calls
        self._intake = intake
        self._cache = cache
        self._members = members

    async def invite(self, room_id: str, user_id: str, plan: Plan, *, users: Sequence[str]) -> str:
        """As `RemoteRooms.invite`."""
        # Before the invited user's server sees it: what the room's policy server refuses is shown to nobody.
        prepared = await self._intake.prepare(room_id, plan, users, recommended=True)
        event = prepared.event
        room = await self._cache.get(room_id)
        if room is None:
            raise NotFound("Unknown room")
        destination = domain_of(user_id)
        try:
            answer = await self._calls.invite(
                destination,
                room_id,
                event.event_id,
                event.pdu,
                room_version=str(room.head.version),
                invite_room_state=await self._shown(room, event.sender),
            )
            signed = with_signature(destination, event, answer)
        except RemoteFailure as failure:
            raise _told(failure) from failure
        (verdict,) = await self._intake.receive(room_id, [signed], outbound=True, users=users)
        if verdict.outcome not in (Outcome.ACCEPTED, Outcome.KNOWN):
            raise Forbidden("The room changed meanwhile, and the invite is not allowed any more")
        return event.event_id

    async def _shown(self, room: Room, inviter: str) -> list[Mapping[str, Any]]:
        """The room to those outside: whole events, the create event among them (MSC4311)."""
        entries = [entry for entry in map(room.head.state_event, TYPES) if entry is not None]
        members = await self._members.members(room, (inviter,))
        return [entry.event.pdu for entry in (*entries, *members.values())]

    async def exchange_third_party_invite(
        self, room_id: str, *, inviter: str, user_id: str, invite: Mapping[str, Any]
    ) -> None:
        """Ask the inviter's server to make an invite of one that went by e-mail, say, to what is now our user.

        `invite` is the content's `third_party_invite`, its `signed` from the identity server. Server-server API,
        "Third-party invites". Raises as `invite`.
        """
        event = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": inviter,
            "state_key": user_id,
            "content": {"membership": "invite", "third_party_invite": dict(invite)},
        }
        try:
            await self._calls.exchange_third_party_invite(domain_of(inviter), room_id, event)
        except RemoteFailure as failure:
            raise _told(failure) from failure


def with_signature(destination: str, event: Event, answer: Mapping[str, Any]) -> Incoming:
    """Our event with the signatures of the server that answered; raises BadAnswer if it answered another event."""
    if _essence(answer) != _essence(event.pdu):
        raise BadAnswer(destination, "the invite came back as another event")
    signatures = answer.get("signatures")
    theirs = signatures.get(destination) if type(signatures) is dict else None
    usable = {
        key_id: signature
        for key_id, signature in (theirs.items() if type(theirs) is dict else ())
        if type(signature) is str and _SIGNATURE.fullmatch(signature) and _KEY_ID.fullmatch(key_id)
    }
    if not usable or len(usable) > MOST_SIGNATURES:
        raise BadAnswer(destination, "the invite came back without its signature")
    signatures = event.pdu["signatures"]  # among them of the same server, if that is the room's policy server
    signatures = {**signatures, destination: {**usable, **signatures.get(destination, {})}}
    pdu = {**event.pdu, "signatures": signatures}
    text = encode_canonical(pdu, strict=event.room_version.strict_canonical_json)
    check_pdu_size(text)
    return Incoming(Event.from_pdu(pdu, event.room_version, event.event_id), text.decode())


def _essence(pdu: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in pdu.items() if key not in ("signatures", "unsigned")}


def _told(failure: RemoteFailure) -> Exception:
    """A refusal of what was sent in our own name is no fault of the client's, but for those the client can act on."""
    if isinstance(failure, RemoteError) and failure.errcode in ("M_MISSING_PARAM", "M_INVALID_PARAM"):
        return RemoteServerFailed(f"{failure.destination} does not take this server's invites")
    return as_told(failure)
