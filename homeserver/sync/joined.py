# SPDX-License-Identifier: Apache-2.0
"""The rooms a user is in: finding those with news, and their timelines, state and summaries.

For a client that follows along, all of it comes from memory. Whatever is not there is read for all rooms together:
the rooms themselves, their timelines, the reader's past in them, the state of gaps, and the events of states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from homeserver.events import RoomEvent
from homeserver.events.rendering import Past
from homeserver.needs import Protocol
from homeserver.rooms.engine import Room, RoomHead
from homeserver.sync.lazy_members import Sent
from homeserver.sync.placement import Joined
from homeserver.sync.request import Window
from homeserver.sync.sight import STAY, Sights, timeline_pass, within_stay
from homeserver.sync.state import (
    MEMBER,
    EventLoader,
    Gap,
    Place,
    RoomHistory,
    StateKey,
    StateView,
    changes_across,
    newest_by_key,
    state_key_of,
)
from homeserver.sync.summary import Summaries, changes_summary, is_named, summary, takes_name
from homeserver.sync.timeline import Timeline, Timelines, lacks_beginning
from storage.events import StoredEvent

_MOST_LATER = 10_000
"""Events beyond the response's end that are undone to get a room's state; they are milliseconds old."""


class Rooms(Protocol):
    """Rooms in memory; `RoomCache` is one."""

    def held(self, room_id: str) -> Room | None: ...

    def peek(self, room_id: str) -> Room | None: ...

    async def get_many(
        self, *, room_ids: Sequence[str] = (), keys: Sequence[int] = ()
    ) -> dict[str, Room]: ...


class Moved(Protocol):
    """Tells whether anything may have happened in a room; `stream.rooms` is one."""

    def may_have_changed(self, key: int, since: int) -> bool: ...


class History(RoomHistory, Protocol):
    """`storage.room_history.RoomHistoryStore`."""

    async def moved_since(self, rooms: Sequence[int], position: int) -> set[int]: ...

    async def newest_gaps(self, spans: Sequence[tuple[int, int, int]]) -> dict[int, int]: ...


class TimelineStore(Protocol):
    async def timelines(
        self, ranges: Sequence[tuple[int, int, int]], limit: int
    ) -> dict[int, list[StoredEvent]]: ...


class JoinedUpdate(Struct):
    """What is new in one room."""

    placement: Joined
    timeline: Timeline
    head: RoomHead
    later: Sequence[RoomEvent]
    """What the head has beyond the response's end."""
    full: bool
    """The whole state is sent, not what changed."""
    past: Past = STAY
    turned: frozenset[StateKey] | None = None
    """If something happened on a branch, what became of the state is read off snapshots, and these pieces of it are
    told of in any case; else None."""
    state: dict[StateKey, RoomEvent] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    heroes: list[str] | None = None
    overriding: dict[StateKey, RoomEvent] = field(default_factory=dict)
    """State that is newer than where `wanted` was read."""
    wanted: list[int] = field(default_factory=list)
    """Ordinals of the state to load."""
    naming: list[int] = field(default_factory=list)
    """Ordinals that the summary needs."""


class JoinedRooms:
    """Makes updates. One per process."""

    def __init__(
        self,
        *,
        rooms: Rooms,
        moved: Moved,
        history: History,
        timelines: Timelines,
        store: TimelineStore,
        sights: Sights,
        loader: EventLoader,
        summaries: Summaries,
    ) -> None:
        self._rooms = rooms
        self._moved = moved
        self._history = history
        self._timelines = timelines
        self._store = store
        self._sights = sights
        self._loader = loader
        self._summaries = summaries

    async def updates(self, window: Window, placements: Sequence[Joined], sent: Sent) -> list[JoinedUpdate]:
        """What is new in those rooms, in their order; rooms without news are absent."""
        rooms = await self._with_news(window, placements)
        if not rooms:
            return []
        updates = await self._timelines_of(window, placements, rooms)
        if not updates:
            return []
        gaps = []
        lazy = window.request.filter.state.lazy_load_members
        for update in updates:
            self._survey(window, update, sent)
            if update.placement.floor <= 0 or (update.full and not lazy):
                continue  # the whole state tells of the gap, too, unless its members are chosen by who is shown
            told = update.placement.told or update.placement.floor
            if update.turned is not None:
                gaps.append(Gap(update.head.room, told, window.upto, update.head.snapshot))
            elif update.timeline.limited:
                gaps.append(Gap(update.head.room, told, update.timeline.start, update.head.snapshot))
        changes = await changes_across(self._history, gaps)
        await self._load(window, updates, changes)
        return updates

    async def _with_news(self, window: Window, placements: Sequence[Joined]) -> dict[int, Room]:
        """The rooms in which something may have happened, or of which all is wanted."""
        since, everything = window.since, window.request.full_state
        may_have_changed, peek = self._moved.may_have_changed, self._rooms.peek
        rooms: dict[int, Room] = {}
        missing: list[int] = []
        doubtful: list[int] = []
        for placement in placements:
            key = placement.room
            wanted = placement.fresh or everything
            if not wanted and not may_have_changed(key, since):
                continue
            room = peek(placement.room_id)
            if room is None:
                # What is in memory is brought up to date at the cost of finding out whether anything happened.
                here = self._rooms.held(placement.room_id) is not None
                (missing if wanted or here else doubtful).append(key)
            elif wanted or room.head.position > since:
                rooms[key] = room
        if doubtful:
            missing.extend(await self._history.moved_since(doubtful, since))
        if missing:
            for room in (await self._rooms.get_many(keys=missing)).values():
                rooms[room.key] = room
        return rooms

    async def _timelines_of(
        self, window: Window, placements: Sequence[Joined], rooms: Mapping[int, Room]
    ) -> list[JoinedUpdate]:
        request = window.request
        wanted = request.filter.timeline
        here = [placement for placement in placements if placement.room in rooms]
        fresh = [placement.room for placement in here if placement.fresh]
        sights = await self._sights.sights(request.user_id, fresh) if fresh else {}
        timelines = [
            Timeline(
                rooms[placement.room],
                placement.floor,
                window.upto,
                wanted.page_limit,
                timeline_pass(wanted, placement.room_id, window.ignored, sights.get(placement.room)),
            )
            for placement in here
        ]
        await self._timelines.fill(timelines)
        turned = await self._part_at_gaps(timelines)
        for placement, timeline in zip(here, timelines, strict=True):
            if placement.gap_before or (
                placement.fresh and placement.floor == 0 and lacks_beginning(timeline)
            ):
                timeline.open_gap()
            if request.state_after is None:
                timeline.begin_after_superseded()
        updates = []
        for placement, timeline in zip(here, timelines, strict=True):
            full = placement.fresh or request.full_state
            if full or timeline.events or timeline.passed_over or timeline.limited:
                head = timeline.room.head
                later = timeline.room.recent_since(window.upto) if head.position > window.upto else ()
                update = JoinedUpdate(placement, timeline, head, later or (), full)
                update.turned = turned.get(timeline.room.key)
                updates.append(update)
        await self._look_ahead(window, updates)
        for update in updates:
            if update.turned is not None and request.state_after is None:
                update.timeline.begin_after_lost(StateView(update.head, update.later).ordinal)
        await self._look_back(window, updates, sights)
        return updates

    async def _part_at_gaps(self, timelines: Sequence[Timeline]) -> dict[int, frozenset[StateKey]]:
        """Begin timelines after what is missing in them; by room, for those with events that came on branches, the
        pieces of state that these are about. No query unless there are any."""
        turned: dict[int, frozenset[StateKey]] = {}
        spans = []
        for timeline in timelines:
            happened = timeline.happened
            if any(entry.stored.turns for entry in happened):
                turned[timeline.room.key] = frozenset(newest_by_key(happened))
                spans.append((timeline.room.key, timeline.start, timeline.upto))
        gaps = await self._history.newest_gaps(spans) if spans else {}
        for timeline in timelines:
            position = gaps.get(timeline.room.key)
            if position is not None:
                timeline.begin_at(position)
        return turned

    async def _look_ahead(self, window: Window, updates: Sequence[JoinedUpdate]) -> None:
        """Read what rooms have beyond the window where memory does not tell."""
        ranges = [
            (update.head.room, window.upto, update.head.position)
            for update in updates
            if update.head.position > window.upto and not update.later
        ]
        if not ranges:
            return
        found = await self._store.timelines(ranges, _MOST_LATER)
        for update in updates:
            if update.head.room in found:
                head = update.head
                update.later = [RoomEvent(e, head.room_id, head.version) for e in found[head.room]]

    async def _look_back(
        self, window: Window, updates: Sequence[JoinedUpdate], sights: Mapping[int, Past]
    ) -> None:
        """Settle how the reader stood to each event shown."""
        distant = [u for u in updates if not within_stay(u.timeline.events, u.placement.joined_at)]
        unknown = [update.head.room for update in distant if update.head.room not in sights]
        more = await self._sights.sights(window.request.user_id, unknown) if unknown else {}
        for update in distant:
            room = update.head.room
            update.past = sights[room] if room in sights else more[room]

    # State.

    def _survey(self, window: Window, update: JoinedUpdate, sent: Sent) -> None:
        """Find out which ordinals the state and the summary need."""
        happened = update.timeline.happened
        changed = newest_by_key(happened)
        if (
            update.full
            or update.timeline.limited
            or update.turned is not None
            or (changed and changes_summary(changed))
            or takes_name(happened, update.head)
        ):
            self._survey_summary(window, update)
        if update.turned is not None:
            shown_here = () if window.request.state_after is not None else update.timeline.events
            newer: Sequence[RoomEvent] = [*shown_here, *update.later]
        elif window.request.state_after is not None:
            newer = update.later
            update.overriding = changed
        else:
            newer = [*happened, *update.later]
            if update.timeline.passed_over:
                shown = newest_by_key(update.timeline.events)
                # State the reader does not want, or may not see, as events is still the room's state.
                update.overriding = {key: entry for key, entry in changed.items() if key not in shown}
        lazy = window.request.filter.state.lazy_load_members
        if update.full:
            self._survey_full(window, update, StateView(update.head, newer), lazy)
        elif lazy:
            self._survey_senders(window, update, newer, sent)

    def _survey_full(self, window: Window, update: JoinedUpdate, view: StateView, lazy: bool) -> None:
        for item in view.others():
            if isinstance(item, int):
                update.wanted.append(item)
            else:
                update.state[state_key_of(item)] = item
        if lazy:
            users = {entry.stored.sender for entry in update.timeline.events}
            users.add(window.request.user_id)
            users.update(update.heroes or ())
            ordinals = map(view.member, users)
            update.wanted.extend(ordinal for ordinal in ordinals if ordinal is not None)
        else:
            update.wanted.extend(view.members())

    @staticmethod
    def _survey_senders(window: Window, update: JoinedUpdate, newer: Sequence[RoomEvent], sent: Sent) -> None:
        """Lazy loading: the members whose events or names are shown, unless the device has them."""
        users = {entry.stored.sender for entry in update.timeline.events}
        users.update(update.heroes or ())
        view: StateView | None = None
        room, members = update.head.room, update.head.members
        redundant_too = window.request.filter.state.include_redundant_members
        for user_id in users:
            member = members.get(user_id)
            if member is not None and not redundant_too and sent.has(room, user_id, member.ordinal):
                continue
            if view is None:
                view = StateView(update.head, newer)
            ordinal = view.member(user_id)
            if ordinal is not None and (redundant_too or not sent.has(room, user_id, ordinal)):
                update.wanted.append(ordinal)

    def _survey_summary(self, window: Window, update: JoinedUpdate) -> None:
        update.summary = {}
        view = StateView(update.head, update.later)
        update.naming = [ordinal for ordinal in view.undone.values() if ordinal is not None]
        if not update.naming and not is_named(_naming_contents(update.head)):
            update.heroes = self._summaries.heroes(view, {}, window.request.user_id)

    async def _load(
        self, window: Window, updates: Sequence[JoinedUpdate], changes: Mapping[int, Sequence[int]]
    ) -> None:
        known: dict[Place, RoomEvent] = {}
        wanted: list[Place] = []
        for update in updates:
            room = update.head.room
            self._want_changes(window, update, changes.get(room, ()))
            if not update.wanted and not update.naming:
                continue
            for entry in (*update.timeline.happened, *update.later):
                known[room, entry.stored.ordinal] = entry
            for entry in update.head.state.values():
                known[room, entry.stored.ordinal] = entry
            wanted.extend((room, ordinal) for ordinal in update.wanted)
            wanted.extend((room, ordinal) for ordinal in update.naming)
        found: Mapping[Place, RoomEvent] = {}
        if wanted:
            rooms = {update.head.room: update.timeline.room for update in updates}
            found = await self._loader.load(wanted, rooms, known)
        for update in updates:
            for ordinal in update.wanted:
                entry = found[update.head.room, ordinal]
                update.state[state_key_of(entry)] = entry
            update.state.update(update.overriding)
            if update.summary is not None:
                self._summarise(window, update, found)

    @staticmethod
    def _want_changes(window: Window, update: JoinedUpdate, changes: Sequence[int]) -> None:
        """The changes of the state that are not shown as events."""
        if update.turned is None:
            update.wanted.extend(changes)
            return
        shown: set[int] = set()
        if window.request.state_after is None:
            shown = {entry.stored.ordinal for entry in update.timeline.events}
        wanted = set(changes)
        if not update.full:
            view = StateView(update.head, update.later)
            wanted.update(o for o in map(view.ordinal, update.turned) if o is not None)
        update.wanted.extend(wanted - shown - set(update.wanted))

    def _summarise(self, window: Window, update: JoinedUpdate, found: Mapping[Place, RoomEvent]) -> None:
        view = StateView(update.head, update.later)
        loaded = {ordinal: found[update.head.room, ordinal] for ordinal in update.naming}
        heroes = update.heroes
        if update.naming or view.undone:
            contents = _naming_contents(update.head)
            for (event_type, state_key), ordinal in view.undone.items():
                if event_type in contents and state_key == "":
                    contents[event_type] = {} if ordinal is None else loaded[ordinal].event.content
            named = is_named(contents)
            heroes = None if named else self._summaries.heroes(view, loaded, window.request.user_id)
        update.summary = summary(view, loaded, heroes)


def _naming_contents(head: RoomHead) -> dict[str, Mapping[str, Any]]:
    return {event_type: head.content(event_type) for event_type in ("m.room.name", "m.room.canonical_alias")}


def members_shown(update: JoinedUpdate) -> list[tuple[int, str, int]]:
    """The members a device has been sent with the update, newest last: (room, user, ordinal)."""
    room = update.head.room
    shown = [(room, key[1], entry.stored.ordinal) for key, entry in update.state.items() if key[0] == MEMBER]
    shown.extend(
        (room, entry.stored.state_key, entry.stored.ordinal)
        for entry in update.timeline.events
        if entry.stored.type == MEMBER and entry.stored.state_key is not None
    )
    return shown
