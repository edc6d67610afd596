# SPDX-License-Identifier: Apache-2.0
"""The rooms a user is out of: their timelines up to the leave, never beyond, and the state as it was then.

Rare beside joined rooms, so everything is read from the database, for all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from homeserver.events import RoomEvent
from homeserver.rooms.access import Sight
from homeserver.rooms.engine import Room
from homeserver.sync.joined import Rooms
from homeserver.sync.lazy_members import Sent
from homeserver.sync.placement import Left
from homeserver.sync.request import Window
from homeserver.sync.sight import Sights, timeline_pass
from homeserver.sync.state import (
    MEMBER,
    EventLoader,
    Gap,
    RoomHistory,
    StateKey,
    changes_across,
    newest_by_key,
    state_key_of,
)
from homeserver.sync.timeline import Timeline, Timelines


class LeftUpdate(Struct):
    """A room that was left."""

    placement: Left
    timeline: Timeline
    past: Sight
    state: dict[StateKey, RoomEvent] = field(default_factory=dict)


class LeftRooms:
    """Makes updates. One per process."""

    def __init__(
        self,
        *,
        rooms: Rooms,
        history: RoomHistory,
        timelines: Timelines,
        sights: Sights,
        loader: EventLoader,
    ) -> None:
        self._rooms = rooms
        self._history = history
        self._timelines = timelines
        self._sights = sights
        self._loader = loader

    async def updates(self, window: Window, placements: Sequence[Left], sent: Sent) -> list[LeftUpdate]:
        """Each of the rooms, in their order."""
        if not placements:
            return []
        keys = [placement.room for placement in placements]
        by_id = await self._rooms.get_many(keys=keys)
        sights = await self._sights.sights(window.request.user_id, keys)
        updates = []
        farewells = []
        for placement in placements:
            room = by_id.get(placement.room_id)
            if room is None:
                continue
            sight = sights[placement.room]
            wanted = window.request.filter.timeline
            passes = timeline_pass(wanted, placement.room_id, window.ignored, sight)
            stay = Timeline(
                room, placement.floor, placement.joined_until or placement.floor, wanted.page_limit, passes
            )
            updates.append(LeftUpdate(placement, stay, sight))
            # The event that made the membership is shown even to those whom the room's history is closed to.
            without_sight = timeline_pass(wanted, placement.room_id, frozenset(), None)
            farewells.append(Timeline(room, placement.end - 1, placement.end, 1, without_sight))
        stays = [update for update in updates if update.placement.joined_until is not None]
        await self._timelines.fill([update.timeline for update in stays])
        for update in stays:
            if update.placement.gap_before:
                update.timeline.open_gap()
            if window.request.state_after is None:
                update.timeline.begin_after_superseded()
        await self._timelines.fill(farewells)
        for update, farewell in zip(updates, farewells, strict=True):
            _bid_farewell(update, farewell)
        await self._fill_states(window, updates, sent)
        return updates

    async def _fill_states(self, window: Window, updates: Sequence[LeftUpdate], sent: Sent) -> None:
        gaps = []
        whole: dict[int, set[str]] = {}
        for update in updates:
            placement, timeline = update.placement, update.timeline
            if placement.joined_until is None:
                continue
            room = timeline.room
            senders = self._senders(window, update, sent)
            if placement.fresh or senders:
                gaps.append(Gap(room.key, 0, timeline.start, room.head.snapshot))
                if not placement.fresh:
                    whole[room.key] = senders
            elif timeline.limited:
                gaps.append(Gap(room.key, window.since, timeline.start, room.head.snapshot))
        changes = dict(await changes_across(self._history, gaps))
        more = [
            Gap(u.timeline.room.key, window.since, u.timeline.start, u.timeline.room.head.snapshot)
            for u in updates
            if u.timeline.room.key in whole and u.timeline.limited
        ]
        limited = await changes_across(self._history, more)
        rooms: Mapping[int, Room] = {update.timeline.room.key: update.timeline.room for update in updates}
        wanted = [(room, ordinal) for room, ordinals in changes.items() for ordinal in ordinals]
        found = await self._loader.load(wanted, rooms, {})
        for update in updates:
            key = update.timeline.room.key
            entries = [found[key, ordinal] for ordinal in changes.get(key, ())]
            self._fill_state(window, update, entries, whole.get(key), set(limited.get(key, ())))

    @staticmethod
    def _senders(window: Window, update: LeftUpdate, sent: Sent) -> set[str]:
        """Lazy loading: those whose member events the device lacks to show the timeline."""
        if not window.request.filter.state.lazy_load_members:
            return set()
        room = update.timeline.room.key
        senders = {entry.stored.sender for entry in update.timeline.events}
        if window.request.filter.state.include_redundant_members:
            return senders
        return {user_id for user_id in senders if (room, user_id) not in sent.members}

    @staticmethod
    def _fill_state(
        window: Window,
        update: LeftUpdate,
        entries: Sequence[RoomEvent],
        only_members: set[str] | None,
        changed: set[int],
    ) -> None:
        """`only_members`: of the state at the start take these members and what `changed`; None: all of it."""
        events = update.timeline.events
        lazy = window.request.filter.state.lazy_load_members
        shown_users = {entry.stored.sender for entry in events} | {window.request.user_id}
        for entry in entries:
            key = state_key_of(entry)
            is_member = key[0] == MEMBER
            if only_members is not None:
                wanted = entry.stored.ordinal in changed or (is_member and key[1] in only_members)
            else:
                chosen = lazy and update.placement.fresh and is_member
                news = 0 < (update.placement.told or update.placement.floor) < entry.stored.position
                wanted = not chosen or news or key[1] in shown_users
            if wanted:
                update.state[key] = entry
        happened = newest_by_key(update.timeline.happened)
        if window.request.state_after is not None:
            update.state.update(happened)
        elif update.timeline.passed_over:
            shown = newest_by_key(events)
            update.state.update({key: entry for key, entry in happened.items() if key not in shown})


def _bid_farewell(update: LeftUpdate, farewell: Timeline) -> None:
    """Put the user's own last member event at the end of the timeline, if it is not there already."""
    timeline = update.timeline
    timeline.newest = timeline.newest or farewell.newest
    for entry in farewell.events:
        shown = timeline.events[-1] if timeline.events else None
        if shown is None or shown.stored.position < entry.stored.position:
            timeline.passed_over = [
                e for e in timeline.passed_over if e.stored.ordinal != entry.stored.ordinal
            ]
            timeline.events = [*timeline.events, entry]
