# SPDX-License-Identifier: Apache-2.0
"""What has news beside events: account data, receipts, typing notices, presence, and a device's own sections.

Owns asking for it and the part of the filter that concerns it. A room that is new to the client gets all of it, the
others what is new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from homeserver.needs import Protocol
from homeserver.protocol.filters import EventFilter, RoomEventFilter
from homeserver.sync.providers import (
    AccountData,
    Extension,
    Invites,
    JsonObject,
    Presence,
    Receipts,
    Typing,
    Unread,
)
from homeserver.sync.request import SyncRequest, Window
from homeserver.sync.survey import Survey


class UserMoved(Protocol):
    """Tells whether anything of a user's own may have moved; `stream.users` is one."""

    def may_have_changed(self, key: str, since: int) -> bool: ...


class Providers(Struct, frozen=True, kw_only=True):
    """The services that are asked."""

    receipts: Receipts
    account_data: AccountData
    invites: Invites
    typing: Typing
    presence: Presence
    unread: Unread
    extensions: Sequence[Extension] = ()


class News(Struct):
    """Events as objects, by room key where they are a room's."""

    account_data: list[JsonObject] = field(default_factory=list)
    presence: list[JsonObject] = field(default_factory=list)
    room_account_data: dict[int, list[JsonObject]] = field(default_factory=dict)
    ephemeral: dict[int, list[JsonObject]] = field(default_factory=dict)
    extensions: dict[str, bytes] = field(default_factory=dict)
    extensions_have_news: bool = False
    to_device_told: int = 0

    @property
    def rooms(self) -> set[int]:
        """Rooms that something concerns."""
        return {*self.room_account_data, *self.ephemeral}


class NewsDesk:
    """Gathers the news. One per process."""

    def __init__(self, providers: Providers, user_moved: UserMoved) -> None:
        self._providers = providers
        self._user_moved = user_moved

    async def gather(self, window: Window, survey: Survey) -> News:
        """All there is in the window for the rooms the user is in, and the user themselves."""
        news = News()
        await self._account_data(window, survey, news)
        await self._ephemeral(window, survey, news)
        await self._presence(window, news)
        await self._extensions(window, news)
        return news

    async def standing(self, request: SyncRequest, upto: int) -> dict[str, bytes]:
        """A device's own sections where nothing is new: a client takes an absent count of its keys for none."""
        if not self._providers.extensions:
            return {}
        news = News()
        if request.since is not None:  # messages left over come with a token that says so
            request = replace(request, since=request.since._replace(to_device=0))
        await self._extensions(Window(request, upto, 0, frozenset()), news)
        return news.extensions

    async def _account_data(self, window: Window, survey: Survey, news: News) -> None:
        user_id, since = window.request.user_id, window.since
        if since > 0 and not survey.fresh and not self._user_moved.may_have_changed(user_id, since):
            return
        changed = await self._providers.account_data.changed(user_id, since, window.upto)
        wanted, in_rooms = window.request.filter.account_data, window.request.filter.room_account_data
        news.account_data = _selected(changed.global_, wanted)
        by_room: Mapping[int, Sequence[JsonObject]] = changed.rooms
        if survey.fresh:
            whole = (await self._providers.account_data.changed(user_id, 0, window.upto)).rooms
            by_room = {**by_room, **{room: whole.get(room, ()) for room in survey.fresh}}
        named = {**survey.rooms, **{left.room: left.room_id for left in survey.left}}
        for room, events in by_room.items():
            if room in named and in_rooms.allows_room(named[room]):
                selected = _selected(events, in_rooms)
                if selected:
                    news.room_account_data[room] = selected

    async def _ephemeral(self, window: Window, survey: Survey, news: News) -> None:
        wanted = window.request.filter.ephemeral
        if not survey.rooms:
            return
        taken = _Ephemeral(news, wanted, survey.rooms)
        keys = list(survey.rooms)
        if wanted.allows("m.receipt", None):
            receipts, user_id = self._providers.receipts, window.request.user_id
            contents = await receipts.changed(user_id, keys, window.since, window.upto)
            if survey.fresh:
                contents = {**contents, **await receipts.changed(user_id, survey.fresh, 0, window.upto)}
            for room, content in contents.items():
                taken.add(room, "m.receipt", content)
        if wanted.allows("m.typing", None):
            for room, users in self._typing(window, survey, keys).items():
                taken.add(room, "m.typing", {"user_ids": list(users)})

    def _typing(self, window: Window, survey: Survey, keys: list[int]) -> Mapping[int, Sequence[str]]:
        typing, user_id, since = self._providers.typing, window.request.user_id, window.request.since
        if since is None:
            return {room: users for room, users in typing.changed(user_id, keys, 0).items() if users}
        changed = typing.changed(user_id, keys, since.ephemeral)
        if not survey.fresh:
            return changed
        return {**changed, **typing.changed(user_id, survey.fresh, 0)}

    async def _presence(self, window: Window, news: News) -> None:
        wanted = window.request.filter.presence
        if wanted.types is not None and not wanted.types.match("m.presence"):
            return
        presence, user_id, since = self._providers.presence, window.request.user_id, window.request.since
        serial = 0 if since is None else since.ephemeral
        if not presence.is_known(user_id, serial, moved=window.since < window.upto):
            await presence.learn()
        events = presence.changed(user_id, serial, None if since is None else since.position)
        news.presence = _selected(events, wanted) if events else []

    async def _extensions(self, window: Window, news: News) -> None:
        request = window.request
        for extension in self._providers.extensions:
            found = await extension.changed(request.user_id, request.device_id, request.since, window.upto)
            news.extensions.update(found.fields)
            news.to_device_told = found.to_device_told or news.to_device_told
            news.extensions_have_news |= found.has_news


def _selected(events: Sequence[JsonObject], wanted: EventFilter) -> list[JsonObject]:
    if wanted.allows_all and wanted.limit is None:
        return list(events)
    passed: list[JsonObject] = [
        event for event in events if wanted.allows(str(event["type"]), event.get("sender"))
    ]
    return passed[: wanted.capped(len(passed))]


class _Ephemeral:
    """Takes up ephemeral events of rooms, as far as the filter wants them."""

    def __init__(self, news: News, wanted: RoomEventFilter, names: Mapping[int, str]) -> None:
        self._by_room = news.ephemeral
        self._wanted = wanted
        self._names = names

    def add(self, room: int, event_type: str, content: JsonObject) -> None:
        name = self._names.get(room)
        if name is not None and self._wanted.allows_room(name):
            events = self._by_room.setdefault(room, [])
            if len(events) < self._wanted.capped(len(events) + 1):
                events.append({"type": event_type, "content": content})
