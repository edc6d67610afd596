# SPDX-License-Identifier: Apache-2.0
"""Building this server's own events: from fields to a hashed, signed event and its bytes.

Owns the order of hashing, redacting and signing (server-server API, "Adding hashes and signatures to outgoing
events") with each part encoded once. Does not choose previous events, auth events, depth or time, and does
not authorize.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import orjson
from msgspec import Struct

from homeserver.protocol.canonical_json import MAX_INTEGER, encode_canonical, encode_checked
from homeserver.protocol.errors import EventFormatError, IdentifierError
from homeserver.protocol.event_format import MAX_LAX_DEPTH, check_pdu_fields, check_pdu_size
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import event_id_from_reference_hash
from homeserver.protocol.identifiers import check_event_id
from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.unpadded_base64 import encode_base64

_NO_HASHES: Final[Mapping[str, str]] = {}


class BuiltEvent(Struct, frozen=True):
    """An event of our own and its PDU as canonical JSON, signatures included."""

    event: Event
    json_bytes: bytes


def next_depth(depths: Sequence[int], room_version: RoomVersion) -> int:
    """The depth of an event on previous events of these depths: the greatest plus one, up to the limit."""
    limit = MAX_INTEGER if room_version.strict_canonical_json else MAX_LAX_DEPTH
    return min(max(depths, default=0) + 1, limit)


def build_event(
    *,
    room_version: RoomVersion,
    room_id: str | None,
    event_type: str,
    state_key: str | None,
    sender: str,
    content: dict[str, Any],
    prev_event_ids: Sequence[str],
    auth_event_ids: Sequence[str],
    depth: int,
    origin_server_ts: int,
    server_name: str,
    signing_key: SigningKey,
    redacts: str | None = None,
    event_id: str | None = None,
    reference_hashes: Mapping[str, str] = _NO_HASHES,
) -> BuiltEvent:
    """Build, hash and sign an event.

    - ``room_id``: None for a create event of room versions whose room id is its hash, and only for that.
    - ``content``: becomes part of the event and must not be changed afterwards.
    - ``origin_server_ts``: milliseconds.
    - ``redacts``: the target of a redaction; goes where the room version keeps it.
    - ``event_id``: chosen by the caller in room versions 1 and 2, and only there.
    - ``reference_hashes``: unpadded Base64 by event id, of every previous and auth event in versions 1 and 2;
      empty where it is not known, since other servers' templates leave hashes out and nobody checks them.

    Raises EventFormatError and EventTooLargeError for fields that break the version's format,
    CanonicalJsonError for content that it cannot carry. Floats and wide integers are refused in every
    version: versions 1 to 5 tolerate them from elsewhere, none needs them from us.
    """
    if (event_id is not None) != room_version.chooses_event_ids:
        raise EventFormatError("an event id is chosen in room versions 1 and 2, and only there")
    pdu: dict[str, Any] = {
        "type": event_type,
        "sender": sender,
        "content": content,
        "depth": depth,
        "origin_server_ts": origin_server_ts,
        "prev_events": _references(prev_event_ids, room_version, reference_hashes),
        "auth_events": _references(auth_event_ids, room_version, reference_hashes),
        "hashes": {"sha256": ""},
        "signatures": {},
    }
    if room_id is not None:
        pdu["room_id"] = room_id
    if state_key is not None:
        pdu["state_key"] = state_key
    if event_id is not None:
        pdu["event_id"] = event_id
    if redacts is not None:
        _place_redacts(pdu, redacts, room_version)
    check_pdu_fields(pdu, room_version)
    return _hash_and_sign(pdu, room_version, server_name, signing_key)


def _hash_and_sign(
    pdu: dict[str, Any], room_version: RoomVersion, server_name: str, signing_key: SigningKey
) -> BuiltEvent:
    """Fill in ``hashes`` and ``signatures`` of a PDU of checked fields."""
    content = pdu["content"]
    content_bytes = encode_canonical(content)
    # From here on the content stands in as its own canonical bytes, and every other part is of checked shape.
    draft = {**pdu, "content": orjson.Fragment(content_bytes)}
    del draft["hashes"], draft["signatures"]
    pdu["hashes"] = draft["hashes"] = {"sha256": encode_base64(_content_digest(draft))}

    essential = redact(pdu, room_version)
    del essential["signatures"]
    if essential["content"] is content:
        essential["content"] = draft["content"]
    essential_bytes = encode_checked(essential)
    pdu["signatures"] = {server_name: {signing_key.key_id: signing_key.sign(essential_bytes)}}
    draft["signatures"] = pdu["signatures"]
    json_bytes = encode_checked(draft)
    check_pdu_size(json_bytes)

    if room_version.chooses_event_ids:
        event_id: str = pdu["event_id"]
    else:
        event_id = event_id_from_reference_hash(sha256(essential_bytes).digest(), room_version)
    return BuiltEvent(Event.from_pdu(pdu, room_version, event_id), json_bytes)


def _content_digest(draft: dict[str, Any]) -> bytes:
    return sha256(encode_checked(draft)).digest()


def _references(
    event_ids: Sequence[str], room_version: RoomVersion, reference_hashes: Mapping[str, str]
) -> list[Any]:
    if not room_version.chooses_event_ids:
        return list(event_ids)
    missing = [event_id for event_id in event_ids if event_id not in reference_hashes]
    if missing:
        raise EventFormatError(f"no reference hash for {missing[0]}")
    known = {event_id: {"sha256": digest} for event_id, digest in reference_hashes.items() if digest}
    return [[event_id, known.get(event_id, {})] for event_id in event_ids]


def _place_redacts(pdu: dict[str, Any], redacts: str, room_version: RoomVersion) -> None:
    try:
        check_event_id(redacts)
    except IdentifierError as error:
        raise EventFormatError(str(error)) from error
    if room_version.redacts_in_content:
        pdu["content"] = {**pdu["content"], "redacts": redacts}
    else:
        pdu["redacts"] = redacts
