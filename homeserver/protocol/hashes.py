# SPDX-License-Identifier: Apache-2.0
"""Content hash, reference hash and event id (server-server API, "Signing Events").

Owns the digests; the bytes come from ``canonical_json``, the essential form from ``redaction``.
"""

import hmac
from hashlib import sha256
from typing import Any, Final

from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import EventIdFormat, RoomVersion
from homeserver.protocol.unpadded_base64 import decode_base64, encode_base64, encode_url_safe_base64

_NOT_CONTENT_HASHED: Final = frozenset({"unsigned", "signatures", "hashes"})


def content_hash(pdu: dict[str, Any], room_version: RoomVersion) -> bytes:
    """SHA-256 over the whole PDU but for ``unsigned``, ``signatures`` and ``hashes``.

    Raises CanonicalJsonError if the PDU has no canonical form in its room version.
    """
    hashed = {key: value for key, value in pdu.items() if key not in _NOT_CONTENT_HASHED}
    return sha256(encode_canonical(hashed, strict=room_version.strict_canonical_json)).digest()


def content_hash_matches(pdu: dict[str, Any], room_version: RoomVersion) -> bool:
    """Whether ``hashes.sha256`` is the PDU's content hash; if not, only its redacted form may be used."""
    try:
        claimed = decode_base64(pdu["hashes"]["sha256"])
    except ValueError:
        return False
    return hmac.compare_digest(claimed, content_hash(pdu, room_version))


def essential_bytes(pdu: dict[str, Any], room_version: RoomVersion) -> bytes:
    """Canonical JSON of the redacted PDU without ``signatures``: what reference hash and signatures cover.

    Raises CanonicalJsonError if it has no canonical form in its room version.
    """
    essential = redact(pdu, room_version)
    essential.pop("signatures", None)
    return encode_canonical(essential, strict=room_version.strict_canonical_json)


def reference_hash(pdu: dict[str, Any], room_version: RoomVersion) -> bytes:
    """SHA-256 over the essential bytes."""
    return sha256(essential_bytes(pdu, room_version)).digest()


def event_id_from_reference_hash(digest: bytes, room_version: RoomVersion) -> str:
    """The event id made of a reference hash, for room versions 3 and later.

    Raises ValueError in versions 1 and 2, whose ids are not derived.
    """
    if room_version.event_id_format is EventIdFormat.HASH_URL_SAFE_BASE64:
        return "$" + encode_url_safe_base64(digest)
    if room_version.event_id_format is EventIdFormat.HASH_BASE64:
        return "$" + encode_base64(digest)
    raise ValueError(f"event ids of room version {room_version} are not hashes")


def event_id_of(pdu: dict[str, Any], room_version: RoomVersion) -> str:
    """The event id of a PDU of checked format: its own field in versions 1 and 2, else its reference hash."""
    if room_version.chooses_event_ids:
        event_id: str = pdu["event_id"]
        return event_id
    return event_id_from_reference_hash(reference_hash(pdu, room_version), room_version)
