# SPDX-License-Identifier: Apache-2.0
"""An event's canonical JSON without what every event's has, and what stands in columns beside it.

Two thirds of a short message are the names of keys, punctuation, and values that its row has anyway. `packed` leaves
them out where an event has the ordinary shape, `pdu_of` (an SQL expression over the function `event_pdu`, migration
0026) puts them back on the way out, byte for byte. Whatever has another shape is stored as it is, as all events were
before.
"""

from __future__ import annotations

import re
from typing import Final

MARK: Final = "\x01"
"""Begins a packed text and separates its fields: canonical JSON has no control characters, and begins with a brace."""

_BEGINNING: Final = '{"auth_events":["$'
_CONTENT: Final = '"],"content":{'
_AFTER_CONTENT: Final = '},"depth":'
# Strings here are without escapes, so that they are what the columns hold.
_REST: Final = re.compile(
    r'\},"depth":([0-9]+),"hashes":\{"sha256":"([A-Za-z0-9+/]+)"\},"origin_server_ts":([0-9]+),'
    r'"prev_events":\["\$([^\]]+)"\],"room_id":"([^"\\]+)","sender":"([^"\\:]+:([^"\\]+))",'
    r'"signatures":\{"([^"\\]+)":\{"ed25519:([^"\\]+)":"([A-Za-z0-9+/]+)"\}\}'
    r'((?:,"state_key":"(?:[^"\\]|\\.)*")?),"type":"([^"\\]+)"\}'
)


COMMON: Final = (
    ('","msgtype":"m.text"', "\x02"),
    ('"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"', "\x03"),
    (',"membership":"join"', "\x04"),
)
"""What contents often have, and what stands for it."""


def packed(pdu: str, *, room_id: str, origin_server_ts: int, sender: str, event_type: str) -> str:
    """What to store of an event's canonical JSON beside those columns, in the room of that id."""
    start = pdu.find(_CONTENT)
    end = pdu.rfind(_AFTER_CONTENT)
    if start < 0 or end < start or not pdu.startswith(_BEGINNING):
        return pdu
    rest = _REST.fullmatch(pdu, end)
    if rest is None:
        return pdu
    depth, sha256, ts, prev, room, who, domain, signer, key, signature, state_key, kind = rest.groups()
    if (room, who, kind, ts) != (room_id, sender, event_type, str(origin_server_ts)) or signer != domain:
        return pdu
    content = pdu[start + len(_CONTENT) : end]
    for common, code in COMMON:
        content = content.replace(common, code)
    return MARK + MARK.join(
        (pdu[len(_BEGINNING) : start], content, depth, sha256, prev, key, signature, state_key)
    )


def pdu_of(alias: str) -> str:
    """The SQL expression that gives the canonical JSON of the row `alias` of `events`; null for a row that is not."""
    room_id = f"(SELECT rooms.room_id FROM rooms WHERE rooms.room = {alias}.room)"  # noqa: S608
    return f"event_pdu({alias}.pdu, {room_id}, {alias}.origin_server_ts, {alias}.sender, {alias}.type)"
