# SPDX-License-Identifier: Apache-2.0
"""The room engine: rooms in memory and the one way an event of ours comes to be.

`head` is a room's present, `working` appends events to a copy of it, `writer` drains a room's queue into the group
commit, `cache` loads rooms and keeps them within a budget, `engine` is the door for services.
"""

from homeserver.rooms.engine.cache import RoomCache
from homeserver.rooms.engine.drafts import DirectoryEntry, Draft, SendTransaction
from homeserver.rooms.engine.engine import RoomEngine
from homeserver.rooms.engine.head import RoomHead
from homeserver.rooms.engine.queued import Plan, Written
from homeserver.rooms.engine.room import Room

__all__ = [
    "DirectoryEntry",
    "Draft",
    "Plan",
    "Room",
    "RoomCache",
    "RoomEngine",
    "RoomHead",
    "SendTransaction",
    "Written",
]
