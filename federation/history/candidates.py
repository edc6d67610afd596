# SPDX-License-Identifier: Apache-2.0
"""Which servers to ask about a room's past, the likeliest first.

Owns the order: those that lately had some of it, the founder's, those whose users have power (they tend to have been
there for long), then those with most members. Never those that are shut out of the room, or left alone for a while
because they could not be reached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from heapq import nlargest
from typing import Final

from federation.client.availability import Availability
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.engine import RoomHead

MOST: Final = 6
_ROOMS: Final = 10_000
_GOOD: Final = 3


class Candidates:
    """One per process."""

    def __init__(self, *, availability: Availability, server_name: str) -> None:
        self._availability = availability
        self._server_name = server_name
        self._good: OrderedDict[str, list[str]] = OrderedDict()

    def of(self, head: RoomHead) -> list[str]:
        """At most `MOST` servers of those in the room."""
        hosts = head.other_hosts(self._server_name)
        named = [*self._good.get(head.room_id, ()), *_founders(head), *_powerful(head)]
        likeliest = dict.fromkeys(name for name in named if name in hosts)
        busiest = nlargest(4 * MOST, hosts, key=lambda name: (head.hosts.get(name, 0), name))
        may_try, acl = self._availability.may_try, head.server_acl
        found = [name for name in dict.fromkeys([*likeliest, *busiest]) if acl.allows(name) and may_try(name)]
        return found[:MOST]

    def was_useful(self, room_id: str, server: str) -> None:
        """It gave some of the room's past."""
        good = [server, *(name for name in self._good.get(room_id, ()) if name != server)]
        self._good[room_id] = good[:_GOOD]
        self._good.move_to_end(room_id)
        while len(self._good) > _ROOMS:
            self._good.popitem(last=False)


def _founders(head: RoomHead) -> list[str]:
    create = head.state_event("m.room.create")
    if create is None:
        return []
    additional = create.event.content.get("additional_creators")
    users = [create.stored.sender, *(additional if isinstance(additional, list) else ())]
    return [domain_of(user) for user in users if isinstance(user, str) and ":" in user]


def _powerful(head: RoomHead) -> list[str]:
    users = head.content("m.room.power_levels").get("users")
    if not isinstance(users, Mapping):
        return []
    levels = {
        user: level for user, level in users.items() if type(level) is int and level > 0 and ":" in user
    }
    return [domain_of(user) for user in nlargest(4 * MOST, levels, key=lambda user: levels[user])]


__all__ = ["MOST", "Candidates"]
