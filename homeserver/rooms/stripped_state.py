# SPDX-License-Identifier: Apache-2.0
"""Stripped state: what somebody outside a room is shown of it with an invite or a knock.

Client-server API, "Stripped state": the listed types, `m.room.create` (which has the room's type) always among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from homeserver.events import RoomEvent
from homeserver.events.client_format import stripped_state_event
from homeserver.rooms.engine import RoomHead

TYPES = (
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.name",
    "m.room.encryption",
    "m.room.topic",
)


def stripped_state(head: RoomHead, members: Sequence[RoomEvent] = ()) -> str:
    """The room as a JSON array of stripped events, with those member events (the inviter's) behind."""
    entries = [entry for entry in map(head.state_event, TYPES) if entry is not None]
    return orjson.dumps([stripped_state_event(entry.event) for entry in (*entries, *members)]).decode()
