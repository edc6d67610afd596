# SPDX-License-Identifier: Apache-2.0
"""Pages of a user's calls, newest first, and what became known since a page was read.

A page looks at a window of the newest events of calls in the user's rooms, filtered by the visibility gate, and reads
the calls off them that began within. So a call's place never changes, and what a page tells of it is what the events up
to now say: what lies after the window is read for calls that are open at its end. That is a handful of queries, however
many rooms and calls; nothing is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import orjson
from msgspec import Struct
from msgspec.structs import replace

from homeserver.calls.history.calls import MOST_OPEN, Call, CallEvent, Outcome, Since
from homeserver.calls.history.group import GroupCalls
from homeserver.calls.history.two_party import two_party_calls
from homeserver.needs import Protocol
from homeserver.protocol.call_members import CALL_MEMBER_TYPES
from homeserver.rooms.access import Sight
from storage.events import StoredEvent
from storage.memberships import Standing

WINDOW: Final = 300
"""Events of one page, however many calls they make."""
FOLLOWING: Final = 300
"""Events of one room that are looked at for the end of its open calls."""


class Store(Protocol):
    """The events; `storage.call_events.CallEventStore` is one."""

    async def newest(
        self, rooms: Sequence[int], *, after: int, before: int, limit: int
    ) -> list[StoredEvent]: ...

    async def following(self, starts: Mapping[int, int], limit: int) -> list[StoredEvent]: ...

    async def members_before(self, starts: Mapping[int, int]) -> list[StoredEvent]: ...

    async def only_others(self, rooms: Sequence[int], user_id: str) -> dict[int, str]: ...


class UserRooms(Protocol):
    """The rooms of users; `rooms.user_rooms.UserRooms` is one."""

    async def of(self, user_id: str) -> Mapping[int, Standing]: ...


class Gate(Protocol):
    """Says what users may see; `rooms.access.RoomGate` is one."""

    async def sights(self, user_id: str, rooms: Sequence[int]) -> dict[int, Sight]: ...


class ToldCall(Struct, frozen=True):
    """A call, and the room it was in."""

    call: Call
    room_id: str


class Page(Struct, frozen=True):
    """`before`: the place of the next page, None if there is none. `since`: on a first page only."""

    calls: Sequence[ToldCall]
    before: int | None
    since: Since | None


class _Reading(Struct, frozen=True):
    """For whom calls are read."""

    user_id: str
    rooms: Mapping[int, str]
    ignored: Collection[str]
    now: int


class CallHistory:
    """One per process."""

    def __init__(
        self,
        *,
        store: Store,
        user_rooms: UserRooms,
        gate: Gate,
        ignored: Callable[[str], Awaitable[Collection[str]]],
        position: Callable[[], int],
        now: Callable[[], int],
    ) -> None:
        """`position` tells how far the stream may be shown, `ignored` whom a user ignores."""
        self._store = store
        self._user_rooms = user_rooms
        self._gate = gate
        self._ignored = ignored
        self._position = position
        self._now = now

    async def page(
        self,
        user_id: str,
        *,
        limit: int,
        before: int | None = None,
        since: Since | None = None,
        outcome: Outcome | None = None,
    ) -> Page:
        """The newest calls that began before a position, and after what `since` was told; with that outcome only.

        Calls that were open at `since` and whose outcome is known now come with the first page.
        """
        upto = self._position()
        standing = await self._user_rooms.of(user_id)
        reading = _Reading(
            user_id,
            {room: each.room_id for room, each in standing.items() if not each.forgotten},
            await self._ignored(user_id),
            self._now(),
        )
        place = upto + 1 if before is None else min(before, upto + 1)
        after = 0 if since is None else since.position
        rows = await self._store.newest(list(reading.rooms), after=after, before=place, limit=WINDOW)
        whole = len(rows) < WINDOW
        low = after + 1 if whole else rows[-1].position
        lows = dict.fromkeys({row.room for row in rows}, low)
        calls = await self._calls(reading, rows[::-1], lows, None if place > upto else place)
        wanted = [call for call in calls if outcome is None or call.outcome == outcome]
        chosen = wanted[:limit]
        rest: int | None = None if whole else low
        if len(wanted) > limit:
            rest = chosen[-1].position
        if before is not None:
            return await self._told(reading, chosen, rest, None)
        if since is not None:
            reopened = await self._reopened(reading, since)
            calls = [*calls, *reopened]
            chosen += [call for call in reopened if outcome in (None, call.outcome) and call.outcome]
            upto = max(upto, since.position)
        undecided = [(call.room, call.position) for call in calls if call.outcome is None]
        return await self._told(reading, chosen, rest, Since(upto, tuple(undecided[:MOST_OPEN])))

    async def _told(
        self, reading: _Reading, calls: Sequence[Call], rest: int | None, since: Since | None
    ) -> Page:
        told = await self._with_peers(reading, calls)
        return Page([ToldCall(call, reading.rooms[call.room]) for call in told], rest, since)

    async def _calls(
        self, reading: _Reading, rows: Sequence[StoredEvent], lows: Mapping[int, int], end: int | None
    ) -> list[Call]:
        """The calls that began among those rows (in order), newest first.

        `lows` is where each room's rows begin, `end` where others follow; None: those are all.
        """
        sights = await self._gate.sights(reading.user_id, list(lows))
        began = {room: low for room, low in lows.items() if low > 1}
        with_members = {row.room for row in rows if row.type in CALL_MEMBER_TYPES}
        began = {room: low for room, low in began.items() if room in with_members}
        members = await self._store.members_before(began) if began else []
        standing = _by_room(reading, members, sights)
        heard = _by_room(reading, rows, sights)
        calls = _assembled(reading, heard, standing)
        open_rooms = {call.room for call in calls if not call.settled}
        if open_rooms and end is not None:
            later = await self._store.following(dict.fromkeys(open_rooms, end), FOLLOWING)
            for room, events in _by_room(reading, later, sights).items():
                heard[room].extend(events)
            calls = _assembled(reading, heard, standing)
        return sorted(
            (
                call
                for call in calls
                if (end is None or call.position < end)
                and sights[call.room].membership_at(call.position) == "join"
            ),
            key=lambda call: -call.position,
        )

    async def _reopened(self, reading: _Reading, since: Since) -> list[Call]:
        """What has become of the calls that were open; they began before what a page after `since` has."""
        wanted = {
            (room, position)
            for room, position in since.open
            if room in reading.rooms and position <= since.position
        }
        if not wanted:
            return []
        starts: dict[int, int] = {}
        for room, position in wanted:
            starts[room] = min(position, starts.get(room, position))
        rows = await self._store.following(starts, FOLLOWING)
        calls = await self._calls(reading, rows, starts, None)
        return [call for call in calls if (call.room, call.position) in wanted]

    async def _with_peers(self, reading: _Reading, calls: Sequence[Call]) -> list[Call]:
        """A call that nobody took was made to whoever else is in the room, if that is one."""
        unknown = {call.room for call in calls if call.peer is None and call.kind != "group"}
        if not unknown:
            return list(calls)
        others = await self._store.only_others(list(unknown), reading.user_id)
        return [
            call
            if call.peer is not None or call.kind == "group"
            else replace(call, peer=others.get(call.room))
            for call in calls
        ]


def _by_room(
    reading: _Reading, rows: Iterable[StoredEvent], sights: Mapping[int, Sight]
) -> dict[int, list[CallEvent]]:
    """What the user may see and wants to, in the order given."""
    found: dict[int, list[CallEvent]] = defaultdict(list)
    for row in rows:
        if row.sender in reading.ignored or not sights[row.room].may_see_stored(row):
            continue
        content = orjson.loads(row.pdu).get("content")
        found[row.room].append(
            CallEvent(
                room=row.room,
                position=row.position,
                ts=row.origin_server_ts,
                type=row.type,
                state_key=row.state_key,
                sender=row.sender,
                event_id=row.event_id,
                content=content if isinstance(content, dict) else {},
            )
        )
    return found


def _assembled(
    reading: _Reading, heard: Mapping[int, Sequence[CallEvent]], standing: Mapping[int, Sequence[CallEvent]]
) -> list[Call]:
    calls: list[Call] = []
    for room, events in heard.items():
        calls.extend(two_party_calls(events, reading.user_id, reading.now))
        group = GroupCalls(reading.user_id, reading.now)
        group.begin_with(standing.get(room, ()))
        for event in events:
            group.hear(event)
        calls.extend(group.calls())
    return calls
