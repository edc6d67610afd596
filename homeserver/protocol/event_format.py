# SPDX-License-Identifier: Apache-2.0
"""The event format of every room version: which keys a PDU has, of which types, and how large it may be.

Owns the first of the checks on receipt of a PDU. Schemas: server-server API definitions ``pdu_v1`` …
``pdu_v12``; limits: client-server API, "Size limits". Does not own what the authorization rules say of the
same fields.
"""

from typing import Any, Final

from homeserver.protocol.canonical_json import MAX_INTEGER, check_canonical, encode_canonical
from homeserver.protocol.errors import (
    EventFormatError,
    EventTooLargeError,
    IdentifierError,
)
from homeserver.protocol.events import Event, is_create
from homeserver.protocol.identifiers import (
    MAX_IDENTIFIER_BYTES,
    check_event_id,
    check_event_id_with_domain,
    check_room_id_with_domain,
    check_room_id_without_domain,
    check_user_id,
    is_valid_user_id,
)
from homeserver.protocol.room_versions import RoomVersion

#: Bytes of the whole PDU as canonical JSON, signatures included.
MAX_PDU_BYTES: Final = 65536
MAX_PREV_EVENTS: Final = 20
MAX_AUTH_EVENTS: Final = 10
#: The greatest depth in versions 1 to 5; later ones keep to the integers of canonical JSON.
MAX_LAX_DEPTH: Final = 2**63 - 1

_REQUIRED: Final = (
    ("type", str, "a string"),
    ("sender", str, "a string"),
    ("content", dict, "an object"),
    ("depth", int, "an integer"),
    ("origin_server_ts", int, "an integer"),
    ("hashes", dict, "an object"),
    ("signatures", dict, "an object"),
    ("prev_events", list, "an array"),
    ("auth_events", list, "an array"),
)


def parse_pdu(pdu: object, room_version: RoomVersion) -> Event:
    """The event of an untrusted PDU, its format checked. Raises as ``check_pdu_format``."""
    check_pdu_format(pdu, room_version)
    assert isinstance(pdu, dict)
    return Event.from_pdu(pdu, room_version)


def check_pdu_format(pdu: object, room_version: RoomVersion) -> bytes:
    """Check an untrusted PDU against its room version's format; give back its canonical JSON.

    Raises EventFormatError, EventTooLargeError for sizes, CanonicalJsonError for values that the version's
    JSON rules refuse.
    """
    if type(pdu) is not dict:
        raise EventFormatError("an event must be an object")
    check_pdu_fields(pdu, room_version)
    data = _canonical_bytes(pdu, room_version)
    check_pdu_size(data)
    return data


def check_pdu_size(canonical_bytes: bytes) -> None:
    """Raise EventTooLargeError if a whole PDU, signatures included, is over its limit."""
    if len(canonical_bytes) > MAX_PDU_BYTES:
        raise EventTooLargeError(f"the event is {len(canonical_bytes)} bytes, over {MAX_PDU_BYTES}")


def check_pdu_fields(pdu: dict[str, Any], room_version: RoomVersion) -> None:
    """The part of ``check_pdu_format`` that looks at the PDU's own fields. Raises as that does."""
    for key, kind, name in _REQUIRED:
        if type(pdu.get(key)) is not kind:
            raise EventFormatError(f"`{key}` must be {name}")
    _check_numbers(pdu, room_version)
    _check_identifiers(pdu, room_version)
    _check_short_text(pdu, "type")
    if "state_key" in pdu:
        _check_short_text(pdu, "state_key")
    _check_references(pdu["prev_events"], "prev_events", MAX_PREV_EVENTS, room_version)
    _check_references(pdu["auth_events"], "auth_events", MAX_AUTH_EVENTS, room_version)
    if type(pdu["hashes"].get("sha256")) is not str:
        raise EventFormatError("`hashes` must have a string `sha256`")
    _check_signatures(pdu["signatures"])
    if type(pdu.get("unsigned", {})) is not dict:
        raise EventFormatError("`unsigned` must be an object")
    top_level_redacts = pdu["type"] == "m.room.redaction" and not room_version.redacts_in_content
    if top_level_redacts and type(pdu.get("redacts", "")) is not str:
        raise EventFormatError("`redacts` must be a string")


def _canonical_bytes(pdu: dict[str, Any], room_version: RoomVersion) -> bytes:
    """Encode, holding ``unsigned`` to the lax rules only: it is covered by no hash, and relays add to it."""
    if not room_version.strict_canonical_json:
        return encode_canonical(pdu, strict=False)
    if "unsigned" in pdu:
        check_canonical({key: value for key, value in pdu.items() if key != "unsigned"})
        return encode_canonical(pdu, strict=False)
    return encode_canonical(pdu)


def _check_numbers(pdu: dict[str, Any], room_version: RoomVersion) -> None:
    limit = MAX_INTEGER if room_version.strict_canonical_json else MAX_LAX_DEPTH
    if not 0 <= pdu["depth"] <= limit:
        raise EventFormatError(f"`depth` must be from 0 to {limit}")
    if not -limit <= pdu["origin_server_ts"] <= limit:
        raise EventFormatError("`origin_server_ts` is out of range")


def _check_identifiers(pdu: dict[str, Any], room_version: RoomVersion) -> None:
    try:
        if not is_valid_user_id(pdu["sender"]):  # which remembers those it has seen
            check_user_id(pdu["sender"])
        if room_version.room_id_is_create_hash and is_create(pdu):
            if "room_id" in pdu:
                raise EventFormatError("a create event must not have a `room_id` in this room version")
        else:
            room_id = pdu.get("room_id")
            if type(room_id) is not str:
                raise EventFormatError("`room_id` must be a string")
            if room_version.room_id_is_create_hash:
                check_room_id_without_domain(room_id)
            else:
                check_room_id_with_domain(room_id)
        if room_version.chooses_event_ids:
            event_id = pdu.get("event_id")
            if type(event_id) is not str:
                raise EventFormatError("`event_id` must be a string")
            check_event_id_with_domain(event_id)
    except IdentifierError as error:
        raise EventFormatError(str(error)) from error


def _check_short_text(pdu: dict[str, Any], key: str) -> None:
    value = pdu[key]
    if type(value) is not str:
        raise EventFormatError(f"`{key}` must be a string")
    try:
        length = len(value.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise EventFormatError(f"`{key}` has a lone surrogate") from error
    if length > MAX_IDENTIFIER_BYTES:
        raise EventTooLargeError(f"`{key}` is over {MAX_IDENTIFIER_BYTES} bytes")


def _check_references(references: list[Any], key: str, limit: int, room_version: RoomVersion) -> None:
    if len(references) > limit:
        raise EventFormatError(f"`{key}` has more than {limit} entries")
    for reference in references:
        event_id = reference
        if room_version.chooses_event_ids:
            if type(reference) is not list or len(reference) != 2 or type(reference[1]) is not dict:
                raise EventFormatError(f"`{key}` must be pairs of event id and hashes")
            event_id = reference[0]
        if type(event_id) is not str:
            raise EventFormatError(f"`{key}` must name events by id")
        try:
            check_event_id(event_id)
        except IdentifierError as error:
            raise EventFormatError(f"`{key}`: {error}") from error


def _check_signatures(signatures: dict[str, Any]) -> None:
    for by_key in signatures.values():
        if type(by_key) is not dict or any(type(signature) is not str for signature in by_key.values()):
            raise EventFormatError("`signatures` must hold strings by server and key")
