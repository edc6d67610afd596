# SPDX-License-Identifier: Apache-2.0
"""PDUs off the wire: the first three checks on receipt (server-server API, "Checks performed on receipt of a PDU").

Owns the way from untrusted JSON to an event whose form, size, signatures and content hash were checked, the same for
every door. What the room makes of it is not asked here. Nothing that comes out can fail to be stored or sent on: no
NUL where Postgres keeps text, no number that JSON in 64 bits does not hold (CVE-2025-30355 of another server).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from homeserver.needs import Protocol
from homeserver.protocol.errors import CanonicalJsonError, EventFormatError, ProtocolError, SignatureError
from homeserver.protocol.event_format import check_pdu_format
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import content_hash_matches, event_id_of
from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.signing import required_signing_domains
from homeserver.rooms.intake.incoming import Incoming
from homeserver.web.clock import Clock

PORTION: Final = 50
"""PDUs taken apart before others get the reactor: some 200 µs each, a few milliseconds if they are large."""

_LEAST: Final = -(2**63)
_MOST: Final = 2**63 - 1


class EventVerifier(Protocol):
    """Checks signatures; knows or fetches the keys."""

    async def verify_events(
        self, events: Sequence[Event], *, asker: str | None = None, clock: Clock | None = None
    ) -> list[SignatureError | None]:
        """For each event, why its signatures do not hold; None if they do. For the rest see `PduReader.read`."""
        ...


class Read(Struct, frozen=True):
    """What one PDU was: an `incoming` event, or the reason of its `refusal`."""

    event_id: str | None
    """None where the PDU is too broken to have one."""
    incoming: Incoming | None
    refusal: str | None


class PduReader:
    """Reads PDUs. `breathe` lets others have the reactor between portions of long lists."""

    def __init__(self, verifier: EventVerifier, *, breathe: Callable[[], Awaitable[object]]) -> None:
        self._verifier = verifier
        self._breathe = breathe

    async def event_ids(self, version: RoomVersion, pdus: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """The id of each PDU, found without checking anything else; None where there is none to be found."""
        found: list[str | None] = []
        for start in range(0, len(pdus), PORTION):
            if start:
                await self._breathe()
            found.extend(_event_id(pdu, version) for pdu in pdus[start : start + PORTION])
        return found

    async def read(
        self,
        version: RoomVersion,
        pdus: Sequence[Mapping[str, Any]],
        *,
        room_id: str | None = None,
        asker: str | None = None,
        clock: Clock | None = None,
    ) -> list[Read]:
        """One answer per PDU, in their order; with `room_id`, events of other rooms are refused. Never raises for what
        a PDU is.

        `asker`: the server that sends them of its own accord, which shares in the turns of fetching keys as one.
        `clock`: to ask others for keys for no longer than one who holds a place may; without one, as long as it takes.
        """
        reads: list[Read] = []
        for start in range(0, len(pdus), PORTION):
            if start:
                await self._breathe()
            reads.extend(read_unverified(pdu, version, room_id) for pdu in pdus[start : start + PORTION])
        unproven = [(place, read.incoming) for place, read in enumerate(reads) if read.incoming is not None]
        if unproven:
            errors = await self._verifier.verify_events(
                [incoming.event for _, incoming in unproven], asker=asker, clock=clock
            )
            for (place, incoming), error in zip(unproven, errors, strict=True):
                if error is not None:
                    reads[place] = Read(incoming.event.event_id, None, str(error))
        return reads


def read_unverified(pdu: object, version: RoomVersion, room_id: str | None) -> Read:
    """Everything but the signatures."""
    if type(pdu) is not dict:
        return Read(None, None, "an event must be an object")
    covered = {key: value for key, value in pdu.items() if key != "unsigned"}
    try:
        text = check_pdu_format(covered, version)
        _check_numbers(covered, version)
        event = Event.from_pdu(covered, version)
        _check_storable(event)
        if room_id is not None and event.room_id != room_id:
            raise EventFormatError("the event is of another room")
        if not content_hash_matches(covered, version):
            event, text = _redacted(event)
        # Asked of the form that is kept: a wrong hash must not bring in by its unprotected content an exemption from
        # signatures that then goes with the content.
        required_signing_domains(event)
    except (ProtocolError, KeyError, ValueError) as error:
        return Read(_event_id(covered, version), None, str(error))
    return Read(event.event_id, Incoming(event, text.decode("utf-8")), None)


def _redacted(event: Event) -> tuple[Event, bytes]:
    """What is left of an event whose content is not what was hashed. Id and signatures cover this form only."""
    pdu = redact(event.pdu, event.room_version)
    return Event.from_pdu(pdu, event.room_version, event.event_id), check_pdu_format(pdu, event.room_version)


def _event_id(pdu: Mapping[str, Any], version: RoomVersion) -> str | None:
    try:
        found = event_id_of(dict(pdu), version)
    except (ProtocolError, KeyError, ValueError, TypeError, AttributeError):
        return None
    if type(found) is not str or "\0" in found or not found.startswith("$") or len(found) > 255:
        return None
    return found if _encodes(found) else None


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_storable(event: Event) -> None:
    """Refuse NUL in what gets a column of its own: Postgres has no such text."""
    texts = (
        event.event_id,
        event.room_id,
        event.type,
        event.sender,
        event.state_key or "",
        event.redacts or "",
        *event.prev_event_ids,
        *event.auth_event_ids,
    )
    if any("\0" in text for text in texts):
        raise EventFormatError("an identifier, type or state key contains NUL")


def _check_numbers(pdu: dict[str, Any], version: RoomVersion) -> None:
    """Room versions 1 to 5 allow any integer; what 64 bits do not hold would come out of storage as another number."""
    if version.strict_canonical_json:
        return
    level: list[Any] = [pdu]
    while level:  # as deep as canonical JSON may be, which was checked
        below: list[Any] = []
        for item in level:
            if type(item) is dict:
                below.extend(item.values())
            elif type(item) is list:
                below.extend(item)
            elif type(item) is int and not _LEAST <= item <= _MOST:
                raise CanonicalJsonError("an integer beyond 64 bits")
        level = below
