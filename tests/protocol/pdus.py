# SPDX-License-Identifier: Apache-2.0
"""Well-formed PDUs of every room version, to be bent by tests."""

from typing import Any

from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import SigningKey

HASH = "Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"
KEY = SigningKey.from_seed("ed25519:k1", b"a seed of thirty-two bytes, fine")
ALL_VERSIONS = tuple(ROOM_VERSIONS.values())


def a_room_id(version: RoomVersion) -> str:
    return "!" + HASH if version.room_id_is_create_hash else "!room:domain"


def a_pdu(version: RoomVersion, **changes: Any) -> dict[str, Any]:
    """A message; ``changes`` replace fields, or remove them if None."""
    reference: Any = ["$prev:domain", {"sha256": HASH}] if version.chooses_event_ids else "$" + HASH
    pdu: dict[str, Any] = {
        "type": "m.room.message",
        "room_id": a_room_id(version),
        "sender": "@alice:domain",
        "content": {"body": "hello", "msgtype": "m.text"},
        "depth": 7,
        "origin_server_ts": 1_700_000_000_000,
        "prev_events": [reference],
        "auth_events": [reference],
        "hashes": {"sha256": HASH},
        "signatures": {"domain": {"ed25519:k1": "c2lnbmF0dXJl"}},
    }
    if version.chooses_event_ids:
        pdu["event_id"] = "$event:domain"
    return {key: value for key, value in (pdu | changes).items() if value is not None}


def a_create_pdu(version: RoomVersion, **changes: Any) -> dict[str, Any]:
    """The create event of a room."""
    create: dict[str, Any] = {
        "type": "m.room.create",
        "state_key": "",
        "content": {"room_version": version.identifier},
        "depth": 1,
        "prev_events": [],
        "auth_events": [],
    }
    if version.room_id_is_create_hash:
        create["room_id"] = None
    return a_pdu(version, **(create | changes))
