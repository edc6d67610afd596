# SPDX-License-Identifier: Apache-2.0
"""What an invite from another server says of the room: `invite_room_state`, read, bounded and made harmless.

Owns what of it is believed. From room version 12 on, the room's create event must be there as a whole event that
proves itself: its hash is the room's id and its sender's server signed it. Whatever else is in the form of an event
must be one of that room, and is shown if its signatures hold. Other entries are taken as stripped state in all
versions, as servers sent them before specification 1.16, and many do: they say no more than the inviting server could
make events say.

What comes out can be stored and shown as it is: each entry has its four fields, of the right types, and every number
and text in it has a form in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from federation.inbound.reading import read_unverified
from federation.serving.offered import Reader
from homeserver.errors import InvalidParam
from homeserver.protocol.identifiers import MAX_IDENTIFIER_BYTES, is_valid_user_id
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.stripped_state import TYPES

MOST_ENTRIES: Final = 100
MOST_WHOLE: Final = 20
"""Whole events that are checked: each may be by a server whose key must be fetched."""
CREATE: Final = ("m.room.create", "")

Stripped = dict[str, Any]


async def read_invite_state(
    reader: Reader, version: RoomVersion, room_id: str, entries: object
) -> list[Stripped]:
    """The stripped state to show with an invite, what clients look for first in front. Raises InvalidParam."""
    if entries is None:
        entries = []
    if not isinstance(entries, list):
        raise InvalidParam("`invite_room_state` must be an array")
    if len(entries) > MOST_ENTRIES:
        raise InvalidParam("`invite_room_state` is too long")
    if version.room_id_is_create_hash:
        found = await _proven(reader, version, room_id, entries)
    else:
        found = [entry for entry in entries if _may_be_of(entry, room_id)]
    shown: dict[tuple[str, str], Stripped] = {}
    for entry in found:
        stripped = _stripped(entry)
        if stripped is not None:
            shown.setdefault((stripped["type"], stripped["state_key"]), stripped)
    return sorted(shown.values(), key=_rank)


async def _proven(
    reader: Reader, version: RoomVersion, room_id: str, entries: Sequence[object]
) -> list[object]:
    """The entries with whole events checked: those that prove themselves, the create event first, then the others.

    A good event whose signature cannot be checked is left out: its server may be gone for good, which is no fault of
    who invites. That does not go for the create event.
    """
    whole = [entry for entry in entries if isinstance(entry, Mapping) and _is_whole(entry)]
    if len(whole) > MOST_WHOLE:
        raise InvalidParam("`invite_room_state` holds too many events")
    proven: list[object] = []
    create: list[object] = []
    for entry, read in zip(whole, await reader.read(version, whole, room_id=room_id), strict=True):
        if read.incoming is None:
            if read_unverified(entry, version, room_id).incoming is None:
                raise InvalidParam(f"An event of `invite_room_state` is refused: {read.refusal}")
            continue
        event = read.incoming.event
        if event.state_key is None:
            raise InvalidParam("An event of `invite_room_state` is no state")
        (create if event.state_tuple == CREATE else proven).append(event.pdu)
    if not create:
        raise InvalidParam("`invite_room_state` lacks the room's m.room.create event, signed and whole")
    others = [entry for entry in entries if isinstance(entry, Mapping) and not _is_whole(entry)]
    return [*create, *proven, *others]


def _is_whole(entry: Mapping[str, Any]) -> bool:
    """Whether it is meant to be an event rather than stripped state."""
    return "signatures" in entry or "hashes" in entry or "auth_events" in entry


def _may_be_of(entry: object, room_id: str) -> bool:
    return isinstance(entry, Mapping) and entry.get("room_id", room_id) == room_id


def _stripped(entry: object) -> Stripped | None:
    """The four fields of stripped state, None if it has not got them."""
    assert isinstance(entry, Mapping)
    content, sender = entry.get("content"), entry.get("sender")
    event_type, state_key = entry.get("type"), entry.get("state_key")
    if not (isinstance(event_type, str) and isinstance(state_key, str) and isinstance(sender, str)):
        return None
    if not isinstance(content, dict) or not is_valid_user_id(sender):
        return None
    if max(len(event_type), len(state_key)) > MAX_IDENTIFIER_BYTES:
        return None
    stripped = {"content": content, "sender": sender, "state_key": state_key, "type": event_type}
    try:
        orjson.dumps(stripped)
    except TypeError:  # an integer beyond 64 bits, a lone surrogate
        return None
    return stripped


def _rank(stripped: Stripped) -> int:
    return TYPES.index(stripped["type"]) if stripped["type"] in TYPES else len(TYPES)
