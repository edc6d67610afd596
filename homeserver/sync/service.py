# SPDX-License-Identifier: Apache-2.0
"""One sync response: everything in since < position ≤ upto, read at one upper position for all sections.

The upper position is taken first. Whatever is read afterwards may be newer; each section leaves out, or undoes, what
lies beyond. So a client that goes on from `next_batch` misses nothing and gets nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from homeserver.events import RoomEvent
from homeserver.events.rendering import Past, Reader
from homeserver.needs import Protocol
from homeserver.protocol.tokens import SyncToken
from homeserver.rooms.engine import RoomHead
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.sync import response
from homeserver.sync.beside import News, NewsDesk, Providers, UserMoved
from homeserver.sync.bundles import TimelineBundles
from homeserver.sync.called import CalledRooms
from homeserver.sync.fragments import TimelineFragments
from homeserver.sync.joined import JoinedRooms, JoinedUpdate, members_shown
from homeserver.sync.lazy_members import NOTHING_SENT, SentMembers
from homeserver.sync.left import LeftRooms, LeftUpdate
from homeserver.sync.request import SyncRequest, SyncResponse, Window
from homeserver.sync.shortcut import Shortcut
from homeserver.sync.state import StateKey
from homeserver.sync.survey import Survey, Surveyor
from homeserver.sync.timeline import Timeline
from homeserver.unread.counts import UnreadCounts


class Positions(Protocol):
    """How far the stream may be shown; `Stream` is one."""

    @property
    def position(self) -> int: ...


class Sections(Struct, frozen=True, kw_only=True):
    """The makers of the rooms' sections, and what they remember between responses."""

    surveyor: Surveyor
    joined: JoinedRooms
    left: LeftRooms
    called: CalledRooms
    fragments: TimelineFragments
    bundles: TimelineBundles
    sent: SentMembers


class SyncService:
    """Makes responses. One per process; knows nothing of waiting."""

    def __init__(
        self,
        *,
        stream: Positions,
        user_moved: UserMoved,
        clock: EphemeralClock,
        sections: Sections,
        providers: Providers,
        shortcut: Shortcut,
        now: Callable[[], int],
    ) -> None:
        self._shortcut = shortcut
        self._stream = stream
        self._clock = clock
        self._sections = sections
        self._providers = providers
        self._news = NewsDesk(providers, user_moved)
        self._now = now

    async def sync(self, request: SyncRequest) -> SyncResponse:
        """The response as of now, at once."""
        response = self.at_once(request)
        return await self.sync_from_all(request) if response is None else response

    def at_once(self, request: SyncRequest) -> SyncResponse | None:
        """The same without waiting for anything; None if that cannot be."""
        if request.since is None:
            return None
        news = self._shortcut.news(request, request.since)
        return self._shortcut.empty(request, news) if isinstance(news, SyncToken) else news

    def news(self, request: SyncRequest, told: SyncToken) -> SyncResponse | SyncToken | None:
        """What is new after `told`: see `Shortcut`."""
        return self._shortcut.news(request, told)

    async def sync_from_all(self, request: SyncRequest) -> SyncResponse:
        """The response as of now, whatever is asked for: from memory and the database."""
        since, upto, serial = request.since, self._stream.position, self._clock.current
        if since is not None:
            self._clock.observe(since.ephemeral)
            ahead = (
                since.position > upto
            )  # the process that gave the token is, by what is still on its way here
            if ahead or (not request.full_state and not self.may_have_news(request)):
                extensions = await self._news.standing(request, upto)
                return SyncResponse(response.whole(since, extensions=extensions), since, False)
            serial = max(serial, since.ephemeral)
        ignored = await self._providers.account_data.ignored(request.user_id)
        window = Window(request, upto, self._now(), ignored)
        survey = await self._sections.surveyor.survey(window)
        news = await self._news.gather(window, survey)
        return await self._respond(window, SyncToken(upto, serial, news.to_device_told), survey, news)

    def may_have_news(self, request: SyncRequest) -> bool:
        """False only if nothing at all has moved since the request's token: most polls of a quiet server."""
        since = request.since
        return (
            since is None
            or since.position < self._stream.position
            or since.ephemeral < self._clock.current
            or since.to_device != 0
        )

    def is_acknowledged(self, request: SyncRequest) -> bool:
        """Whether memory tells that `acknowledge` would do nothing."""
        since, user_id, device_id = request.since, request.user_id, request.device_id
        return since is None or all(
            extension.is_acknowledged(user_id, device_id, since) for extension in self._providers.extensions
        )

    async def acknowledge(self, request: SyncRequest) -> None:
        """The client has processed what came with the request's token: see `Extension`."""
        if request.since is not None:
            for extension in self._providers.extensions:
                await extension.acknowledge(request.user_id, request.device_id, request.since)

    async def _respond(
        self, window: Window, next_batch: SyncToken, survey: Survey, news: News
    ) -> SyncResponse:
        request, sections = window.request, self._sections
        lazy = request.filter.state.lazy_load_members
        sent = NOTHING_SENT
        if lazy:
            sent = sections.sent.recall(request.user_id, request.device_id, request.since)
        updates: Sequence[JoinedUpdate] = ()
        if survey.joined:
            updates = await sections.joined.updates(window, survey.joined, sent)
        left: Sequence[LeftUpdate] = ()
        if survey.left:
            left = await sections.left.updates(window, survey.left, sent)
        invite = await sections.called.entries([c for c in survey.called if c.membership == "invite"])
        knock = await sections.called.entries([c for c in survey.called if c.membership == "knock"])
        updates = [update for update in updates if _select_state(window, update)]
        reader = _reader(window)
        relations = await sections.bundles.of(window, updates, left, reader)
        timelines = _TimelineWriter(sections.fragments, reader, relations)
        join = await self._join(window, survey, updates, news, timelines)
        leave = self._leave(window, left, news, timelines)
        if lazy:
            shown = [member for update in updates for member in members_shown(update)]
            if shown:
                sent = sent.plus(shown)
            sections.sent.remember(request.user_id, request.device_id, request.since, next_batch, sent)
        body = response.whole(
            next_batch,
            join=join,
            invite=invite,
            knock=knock,
            leave=leave,
            presence=response.events(news.presence),
            account_data=response.events(news.account_data),
            extensions=news.extensions,
        )
        beside = news.presence or news.account_data or news.extensions_have_news
        return SyncResponse(body, next_batch, bool(join or leave or invite or knock or beside))

    async def _join(
        self,
        window: Window,
        survey: Survey,
        updates: Sequence[JoinedUpdate],
        news: News,
        timelines: _TimelineWriter,
    ) -> list[bytes]:
        rooms = {update.placement.room: update for update in updates}
        beside = [room for room in news.rooms if room in survey.rooms and room not in rooms]
        if not rooms and not beside:
            return []
        request = window.request
        unread = await self._providers.unread.counts(request.user_id, [*rooms, *beside], window.upto)
        writer = _JoinedWriter(window, survey, news, unread)
        entries = []
        for room, update in rooms.items():
            timeline = timelines.write(update.timeline, update.head, update.past)
            state = response.state_part(request.state_after, update.state.values(), timelines.reader, None)
            entries.append(writer.entry(room, timeline, state, update.summary))
        no_state = response.state_part(request.state_after, (), timelines.reader, None)
        entries.extend(writer.entry(room, response.NO_TIMELINE, no_state, None) for room in beside)
        return entries

    def _leave(
        self,
        window: Window,
        updates: Sequence[LeftUpdate],
        news: News,
        timelines: _TimelineWriter,
    ) -> list[bytes]:
        if not updates:
            return []
        name = window.request.state_after
        entries = []
        for update in updates:
            room = update.timeline.room
            update.state = _wanted_state(window, room.room_id, update.state)
            timeline = timelines.write(update.timeline, room.head, update.past)
            entries.append(
                response.left_entry(
                    room.room_id,
                    timeline=timeline,
                    state=response.state_part(name, update.state.values(), timelines.reader, None),
                    account_data=response.events(news.room_account_data.get(room.key, ())),
                )
            )
        return entries


class _TimelineWriter(Struct, frozen=True):
    """Puts timelines into bytes, with what their events add up to."""

    fragments: TimelineFragments
    reader: Reader
    relations: Mapping[str, bytes]

    def write(self, timeline: Timeline, head: RoomHead, past: Past) -> bytes:
        return self.fragments.timeline(timeline, head, self.reader, past, self.relations)


class _JoinedWriter(Struct, frozen=True):
    """Puts rooms of `join` together."""

    window: Window
    survey: Survey
    news: News
    unread: Mapping[int, UnreadCounts]

    def entry(self, room: int, timeline: bytes, state: bytes, summary: Mapping[str, object] | None) -> bytes:
        news = self.news
        return response.joined_entry(
            self.survey.rooms[room],
            timeline=timeline,
            state=state,
            ephemeral=response.events(news.ephemeral.get(room, ())),
            account_data=response.events(news.room_account_data.get(room, ())),
            unread=self.unread.get(room),
            threads_apart=self.window.request.filter.timeline.unread_thread_notifications,
            summary=summary,
        )


def _reader(window: Window) -> Reader:
    request = window.request
    wanted = request.filter
    return Reader(
        request.user_id, request.device_id, window.now, wanted.event_fields, wanted.federation_format
    )


def _select_state(window: Window, update: JoinedUpdate) -> bool:
    """Reduce the state to what the filter wants; False if nothing is left to say of the room."""
    if update.state:
        update.state = _wanted_state(window, update.placement.room_id, update.state)
    timeline = update.timeline
    return bool(
        update.full or timeline.events or timeline.limited or update.state or update.summary is not None
    )


def _wanted_state(
    window: Window, room_id: str, state: dict[StateKey, RoomEvent]
) -> dict[StateKey, RoomEvent]:
    """The filter's `limit` is not applied: a state with holes in it would be of no use."""
    wanted = window.request.filter.state
    if wanted.selects_all:
        return state
    if not wanted.allows_room(room_id):
        return {}
    return {
        key: entry
        for key, entry in state.items()
        if wanted.allows_event(key[0], entry.stored.sender, entry.event.content)
    }
