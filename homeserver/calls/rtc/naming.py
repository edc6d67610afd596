# SPDX-License-Identifier: Apache-2.0
"""What rooms and participants of MatrixRTC are called on LiveKit (MSC4195, "LiveKit RTC transport").

Owns the names. Every client works out the others' by the same rules, so none can be chosen here.
"""

from hashlib import sha256
from typing import Final

from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.unpadded_base64 import encode_base64

LEGACY_SLOT: Final = "m.call#ROOM"
"""The slot of those who ask in the older form, which names none: the one call a room could have then."""


def livekit_room(room_id: str, slot_id: str) -> str:
    """The LiveKit room of a call. Both forms lead into the same."""
    return _hash(room_id, slot_id)


def livekit_identity(user_id: str, device_id: str, member_id: str) -> str:
    """A participant, so that LiveKit does not learn who it is."""
    return _hash(user_id, device_id, member_id)


def legacy_identity(user_id: str, device_id: str) -> str:
    """A participant by the older form."""
    return f"{user_id}:{device_id}"


def _hash(*parts: str) -> str:
    return encode_base64(sha256(encode_canonical(parts)).digest())
