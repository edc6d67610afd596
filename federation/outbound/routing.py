# SPDX-License-Identifier: Apache-2.0
"""Which servers an event concerns: those in the room once it had happened, and the server of the member it is about.

So a server that is kicked hears of it, an invited one too, and one that joins gets nothing from before its join. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import orjson

from homeserver.events import RoomEvent
from homeserver.rooms.engine.head import host_of
from storage.outbound import OutboundEvent

MEMBER = "m.room.member"


def destinations_of_recent(
    events: Sequence[RoomEvent], hosts: Mapping[str, int], extra: Collection[str], own: str
) -> list[tuple[RoomEvent, frozenset[str]]]:
    """For those of a room's newest events that are to be spread: to whom.

    `events` must be all of them from some position on, oldest first; `hosts` counts the joined members per server after
    the last. `extra` are servers in a room whose members are not all known. Goes backwards, undoing memberships.
    """
    present = frozenset(hosts).union(extra) - {own}
    undone: dict[str, int] = {}
    found: list[tuple[RoomEvent, frozenset[str]]] = []
    for entry in reversed(events):
        stored = entry.stored
        if stored.outbound:
            found.append((entry, _concerned(present, stored.type, stored.state_key, stored.sender, own)))
        if stored.type != MEMBER or stored.state_key is None:
            continue
        server = host_of(stored.state_key)
        change = joined_by(entry)
        if change and server != own and server not in extra:
            undone[server] = undone.get(server, 0) - change
            is_there = hosts.get(server, 0) + undone[server] > 0
            present = present | {server} if is_there else present - {server}
    found.reverse()
    return found


def destinations_of_stored(event: OutboundEvent, hosts: Collection[str], own: str) -> frozenset[str]:
    """As above, for one event and the servers in its room once it had happened."""
    return _concerned(frozenset(hosts) - {own}, event.type, event.state_key, event.sender, own)


def _concerned(
    present: frozenset[str], event_type: str, state_key: str | None, sender: str, own: str
) -> frozenset[str]:
    """Without the server whose user sent it, which has it; this server's own is not in `present`."""
    sent_by = host_of(sender)
    if sent_by in present:
        present -= {sent_by}
    if event_type == MEMBER and state_key is not None:
        about = host_of(state_key)
        if about and about not in (sent_by, own):
            return present | {about}
    return present


def joined_by(entry: RoomEvent) -> int:
    """By how much a member event changes the number of joined users: 1, 0 or -1."""
    return _joins(entry.event.content) - _joins_pdu(entry.stored.replaced_pdu)


def _joins(content: Mapping[str, object]) -> int:
    return int(content.get("membership") == "join")


def _joins_pdu(pdu: str | None) -> int:
    return 0 if pdu is None else _joins(orjson.loads(pdu)["content"])
