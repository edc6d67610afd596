# SPDX-License-Identifier: Apache-2.0
"""Room summaries in `/sync`: how many are in a room, and whom to name it after (`m.heroes`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from heapq import nsmallest
from typing import Any
from weakref import ReferenceType, ref

from immutables import Map

from homeserver.events import RoomEvent
from homeserver.rooms.engine import RoomHead
from homeserver.sync.state import MEMBER, StateKey, StateView
from storage.rooms import Member

HEROES = 5
_REMEMBERED = 5_000

NAMING: frozenset[StateKey] = frozenset((("m.room.name", ""), ("m.room.canonical_alias", "")))


def changes_summary(keys: Iterable[StateKey]) -> bool:
    """Whether a change of state at any of the keys can change a summary."""
    return any(key[0] == MEMBER or key in NAMING for key in keys)


def takes_name(happened: Iterable[RoomEvent], head: RoomHead) -> bool:
    """Whether one of the events redacted what the room is named by: no state changes with it, but the heroes do."""
    struck_by = {
        entry.stored.redacted_by for entry in (head.state_event(*key) for key in NAMING) if entry is not None
    }
    return any(entry.stored.event_id in struck_by for entry in happened)


def is_named(content_of: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether clients can name the room by its name or canonical alias, given the contents of both by type."""
    return bool(content_of["m.room.name"].get("name") or content_of["m.room.canonical_alias"].get("alias"))


class Summaries:
    """Makes summaries, remembering each room's first members: they are alike for everyone in it."""

    def __init__(self) -> None:
        # The members themselves stay in memory for as long as their room does.
        self._first: OrderedDict[int, tuple[ReferenceType[Map[str, Member]], list[str]]] = OrderedDict()

    def heroes(self, view: StateView, loaded: Mapping[int, RoomEvent], user_id: str) -> list[str]:
        """The first five others who are joined or invited; if there are none, those who were.

        `loaded` has by ordinal the member events that the view's `undone` names.
        """
        if view.undone:
            first = _first_members(_members_then(view, loaded))
        else:
            first = self._first_members(view.head)
        return [user for user in first if user != user_id][:HEROES]

    def _first_members(self, head: RoomHead) -> list[str]:
        known = self._first.get(head.room)
        # A map is a value: while nobody comes or goes it is the same one, however much is said.
        if known is not None and known[0]() is head.members:
            self._first.move_to_end(head.room)
            return known[1]
        first = _first_members(head.members)
        self._first[head.room] = (ref(head.members), first)
        self._first.move_to_end(head.room)
        while len(self._first) > _REMEMBERED:
            self._first.popitem(last=False)
        return first


def summary(view: StateView, loaded: Mapping[int, RoomEvent], heroes: list[str] | None) -> dict[str, Any]:
    """The `summary` of a room. `heroes` None: the room has a name."""
    joined, invited = view.head.joined_count, view.head.invited_count
    for user_id, then in _undone_memberships(view, loaded):
        now = view.head.membership(user_id)
        joined += (then == "join") - (now == "join")
        invited += (then == "invite") - (now == "invite")
    fields: dict[str, Any] = {"m.joined_member_count": joined, "m.invited_member_count": invited}
    if heroes is not None:
        fields["m.heroes"] = heroes
    return fields


def _first_members(members: Mapping[str, Member]) -> list[str]:
    """One more than are shown, since the reader is not shown."""

    def first(*memberships: str) -> list[str]:
        present = ((m.since, user) for user, m in members.items() if m.membership in memberships)
        return [user for _, user in nsmallest(HEROES + 1, present)]

    here = first("join", "invite")
    if len(here) > 1:
        return here
    return here + first("leave", "ban", "knock")


def _undone_memberships(view: StateView, loaded: Mapping[int, RoomEvent]) -> list[tuple[str, str | None]]:
    return [
        (key[1], None if ordinal is None else loaded[ordinal].event.content.get("membership"))
        for key, ordinal in view.undone.items()
        if key[0] == MEMBER
    ]


def _members_then(view: StateView, loaded: Mapping[int, RoomEvent]) -> Mapping[str, Member]:
    members = dict(view.head.members)
    for key, ordinal in view.undone.items():
        if key[0] != MEMBER:
            continue
        if ordinal is None:
            members.pop(key[1], None)
        else:
            entry = loaded[ordinal]
            membership = str(entry.event.content.get("membership"))
            members[key[1]] = Member(membership, ordinal, entry.stored.position)
    return members
