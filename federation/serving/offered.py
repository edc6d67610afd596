# SPDX-License-Identifier: Apache-2.0
"""A member event that another server offers, by `send_join`, `send_leave`, `send_knock` or `invite`.

Owns the checks that need nothing but the request: the event is whole, is what the endpoint is for, and is the one the
path names, of the room the path names, by a user of the server that asks. Signatures are checked by the reader of PDUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from federation.inbound.reading import Read, read_unverified
from homeserver.errors import BadJson, Forbidden, InvalidParam
from homeserver.needs import Protocol
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import content_hash_matches
from homeserver.protocol.identifiers import check_user_id, domain_of
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.signing import sign_pdu
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.intake.incoming import Incoming

MEMBER = "m.room.member"


class Reader(Protocol):
    """`federation.inbound.reading.PduReader`, as far as it is used here."""

    async def read(
        self, version: RoomVersion, pdus: Sequence[Mapping[str, Any]], *, room_id: str | None = None
    ) -> list[Read]: ...


class Offer(Struct, frozen=True, kw_only=True):
    """What the path and the endpoint say that the event is."""

    origin: str
    room_id: str
    event_id: str
    membership: str


def check_own_user(origin: str, user_id: str) -> None:
    """Raise Forbidden unless it is a user of the server, InvalidParam if it is none at all."""
    try:
        check_user_id(user_id)
    except IdentifierError as error:
        raise InvalidParam(str(error)) from error
    if domain_of(user_id) != origin:
        raise Forbidden("Servers may ask this for their own users only")


def offered_event(pdu: object, version: RoomVersion, offer: Offer) -> Event:
    """The event offered, its signatures not checked. Raises InvalidParam, BadJson.

    An event whose content is not what its hash says is refused: unlike one met in a room's history, it is new, and the
    server that made it is there to make it well.
    """
    if not isinstance(pdu, dict):
        raise BadJson("The request body must be an event")
    read = read_unverified(pdu, version, None)
    if read.incoming is None:
        raise InvalidParam(f"That is no event of room version {version}: {read.refusal}")
    event = read.incoming.event
    if event.event_id != offer.event_id:
        raise InvalidParam("The event's id is not the one in the path")
    if event.room_id != offer.room_id:
        raise InvalidParam("The event is of another room than the one in the path")
    if event.type != MEMBER or event.state_key is None:
        raise InvalidParam("The event is not a membership")
    if not content_hash_matches(pdu, version):
        raise InvalidParam("The event's content is not what its hash says")
    if event.content.get("membership") != offer.membership:
        raise InvalidParam(f"The event's membership is not {offer.membership}")
    if domain_of(event.sender) != offer.origin:
        raise InvalidParam("The event is not by a user of the server that sends it")
    return event


def countersigned(event: Event, signer: Signer) -> dict[str, Any]:
    """The PDU of a checked event with our signature; what was said to be ours already is gone."""
    signatures = {name: keys for name, keys in event.pdu["signatures"].items() if name != signer.server_name}
    return sign_pdu(
        {**event.pdu, "signatures": signatures}, event.room_version, signer.server_name, signer.key
    )


async def verified(reader: Reader, version: RoomVersion, pdu: Mapping[str, Any], room_id: str) -> Incoming:
    """The event with the signatures of all servers that must have signed it checked. Raises InvalidParam."""
    (read,) = await reader.read(version, (pdu,), room_id=room_id)
    if read.incoming is None:
        raise InvalidParam(f"The event is refused: {read.refusal}")
    return read.incoming
