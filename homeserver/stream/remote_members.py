# SPDX-License-Identifier: Apache-2.0
"""How processes tell each other of users of other servers whose membership changed.

They have no data of their own here and wait for nothing, so the users whom a notification names (`Change.users`) are
this server's only; but whoever keeps where they are must hear of it. Owns the form of a line among those of a batch
(`RoomBatch.news`): it begins with the key of no room, so that a process of a release before, which knows nothing of
it, passes it over. Then follows JSON: `[room, [user id, …]]`, or `[room]` of more users than a line holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from storage.stream import MOST_IN_A_LINE

NO_ROOM = -1


def line_of(room: int, users: Sequence[str]) -> str:
    """The line that names those users, or, if they are too many, the room they came to or left."""
    line = b"%d %b" % (NO_ROOM, orjson.dumps([room, users]))
    return (line if len(line) <= MOST_IN_A_LINE else b"%d [%d]" % (NO_ROOM, room)).decode()


def read(lines: Iterable[str]) -> tuple[list[str], list[int]]:
    """The users whom lines name, and the rooms of which users were too many to be."""
    users: list[str] = []
    rooms: list[int] = []
    for line in lines:
        room, *named = orjson.loads(line.partition(" ")[2])
        if named:
            users += named[0]
        else:
            rooms.append(room)
    return users, rooms
