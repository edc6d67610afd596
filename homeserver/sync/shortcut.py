# SPDX-License-Identifier: Apache-2.0
"""Responses for clients that follow along, made at once: no query, no waiting, and next to nothing per listener.

What is new to most listeners of most rooms is alike: the same few messages, after the same token. So the part of a
response that is a room's is made once (`_Part`), and what is left per listener is to make sure that nothing else is new
to them, which memory tells by positions, and to put their unread counts beside it.

Owns when that is possible, and nothing of what a response is: each condition below rules out a branch of
`SyncService.sync_from_all`, whose bytes are the ones made here (tests/sync compares them wherever it syncs). Whatever
is not simple is None, "ask there": state, redactions, branches, gaps, filters that choose, own messages, presence,
anything of the user's own, anything that is not in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final
from weakref import ReferenceType, ref

from msgspec import Struct

from homeserver.events import RoomEvent
from homeserver.events.rendering import Reader
from homeserver.needs import Protocol
from homeserver.protocol.filters import SyncFilter
from homeserver.protocol.tokens import SyncToken
from homeserver.rooms.engine import Room, RoomHead
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.sync import response
from homeserver.sync.beside import Providers, UserMoved
from homeserver.sync.fragments import TimelineFragments
from homeserver.sync.lazy_members import Sent, SentMembers
from homeserver.sync.moves import RoomMoves
from homeserver.sync.providers import Extension, ExtensionNews, JsonObject
from homeserver.sync.request import StateAfter, SyncRequest, SyncResponse
from homeserver.sync.sight import STAY
from homeserver.sync.timeline import Timeline
from storage.memberships import Standing

_SHELF_LIFE: Final = 1_000
"""Milliseconds that a part is used, for the sake of `age`."""
_MOST: Final = 500
"""Parts, and filters, that are remembered."""


class Positions(Protocol):
    """How far the stream may be shown; `Stream` is one."""

    @property
    def position(self) -> int: ...


class Rooms(Protocol):
    """Rooms in memory; `RoomCache` is one."""

    def peek(self, room_id: str) -> Room | None: ...


class KnownRooms(Protocol):
    """Users' standings as far as they are in memory; `rooms.user_rooms.UserRooms` is one."""

    def known(self, user_id: str) -> Mapping[int, Standing] | None: ...


class _Wish(Struct, frozen=True):
    """What matters here of a filter that leaves no room and no event out."""

    limit: int
    lazy: bool
    threads_apart: bool
    ephemeral: bool
    """Nothing of receipts and typing notices is left out."""


class _Part(Struct, frozen=True):
    """What is new in a room, as everybody gets it who was joined to it all along."""

    opening: bytes
    """The entry up to its `ephemeral`."""
    count: int
    """Events in it."""
    senders: frozenset[str]
    tellers: frozenset[str]
    """Senders who are told more of their event than others may be."""
    head: RoomHead
    until: int
    """Milliseconds of the wall clock."""


class Shortcut:
    """One per process."""

    def __init__(
        self,
        *,
        stream: Positions,
        clock: EphemeralClock,
        moves: RoomMoves,
        user_moved: UserMoved,
        user_rooms: KnownRooms,
        rooms: Rooms,
        fragments: TimelineFragments,
        sent: SentMembers,
        providers: Providers,
        now: Callable[[], int],
    ) -> None:
        """`now` gives the wall clock in milliseconds; `fragments` and `sent` are those of the whole sync."""
        self._stream = stream
        self._clock = clock
        self._moves = moves
        self._user_moved = user_moved
        self._user_rooms = user_rooms
        self._rooms = rooms
        self._fragments = fragments
        self._sent = sent
        self._providers = providers
        self._standing = [extension for extension in providers.extensions if extension.stands]
        self._now = now
        self._parts: dict[tuple[int, int, StateAfter | None], _Part] = {}
        self._parts_upto = 0
        """Where the stream stood when they were made."""
        self._wishes: dict[int, tuple[ReferenceType[SyncFilter], _Wish | None]] = {}
        """By the identity of a filter, as it takes time to compare them."""

    def news(self, request: SyncRequest, told: SyncToken) -> SyncResponse | SyncToken | None:
        """The response with what is new after `told`; a token if nothing is new up to there; None: ask elsewhere.

        `told` is the request's token, or one that this gave for the request before.
        """
        since, serial_told, to_device = told
        upto, serial = self._stream.position, self._clock.current
        if to_device or since > upto or request.full_state:
            return None
        if serial <= serial_told:
            if serial < serial_told:
                self._clock.observe(serial_told)
            if since == upto:
                return told
            serial = serial_told
        wish = self._wish(request.filter)
        if wish is None or self._user_moved.may_have_changed(request.user_id, since):
            return None
        standings = self._user_rooms.known(request.user_id)
        moved = self._moves.since(since)
        if standings is None or moved is None:
            return None
        ephemeral = self._ephemeral(request.user_id, standings, told, upto)
        if ephemeral is None or (ephemeral and not wish.ephemeral):
            return None
        touched = [room for room in moved if room in standings]
        # The database is ahead of the stream: what a user came to be since then is not what they were at `upto`.
        if any(standings[room].since > since for room in (*touched, *ephemeral)):
            return None
        rooms = [room for room in touched if standings[room].membership == "join"]
        sections = self._sections(request, told, upto, rooms, self._providers.extensions)
        if sections is None:
            return None
        token = SyncToken(upto, serial)
        join = self._join(request, wish, token, rooms, standings=standings, since=since, ephemeral=ephemeral)
        if join is None:
            return None
        if not join and not sections.has_news:
            return token
        if wish.lazy:
            self._remember(request, token)
        return SyncResponse(response.small(token, join, sections.fields), token, True)

    def empty(self, request: SyncRequest, token: SyncToken) -> SyncResponse | None:
        """The response without news that ends at a token `news` gave for the request; None: ask elsewhere."""
        since = request.since
        wish = self._wish(request.filter)
        if since is None or wish is None:
            return None
        sections = self._sections(request, token, token.position, (), self._standing)
        if sections is None:
            return None
        if wish.lazy and token != since:
            self._remember(request, token)
        return SyncResponse(response.small(token, (), sections.fields), token, False)

    # What is new beside rooms.

    def _ephemeral(
        self, user_id: str, standings: Mapping[int, Standing], told: SyncToken, upto: int
    ) -> Mapping[int, list[JsonObject]] | None:
        """By room the user is in, receipts and who types; None also if there is presence.

        Who shares a room since is left out: a join is told the long way.
        """
        providers = self._providers
        receipts = providers.receipts.at_once(user_id, standings, told.position, upto)
        if receipts is None:
            return None
        typing: Mapping[int, Sequence[str]] = _NOBODY
        if self._clock.current > told.ephemeral:
            presence, serial = providers.presence, told.ephemeral
            if not presence.is_known(user_id, serial, moved=False) or presence.changed(user_id, serial):
                return None
            typing = providers.typing.changed(user_id, standings, told.ephemeral)
        if not receipts and not typing:
            return _NOTHING
        found: dict[int, list[JsonObject]] = {}
        for room, content in receipts.items():
            if standings[room].membership == "join":
                found[room] = [{"type": "m.receipt", "content": content}]
        for room, users in typing.items():
            if standings[room].membership == "join":
                event = {"type": "m.typing", "content": {"user_ids": list(users)}}
                found.setdefault(room, []).append(event)
        return found

    def _sections(
        self,
        request: SyncRequest,
        told: SyncToken,
        upto: int,
        rooms: Sequence[int],
        extensions: Iterable[Extension],
    ) -> ExtensionNews | None:
        """The device's own sections together; None if one of them does not know at once."""
        fields: dict[str, bytes] | None = None
        has_news = False
        for extension in extensions:
            found = extension.at_once(request.user_id, request.device_id, told, upto, rooms)
            if found is None or found.to_device_told:
                return None
            if found.fields:
                fields = {**fields, **found.fields} if fields else {**found.fields}
            has_news |= found.has_news
        return _NO_SECTIONS if fields is None else ExtensionNews(fields, has_news)

    # Rooms.

    def _join(
        self,
        request: SyncRequest,
        wish: _Wish,
        token: SyncToken,
        rooms: Sequence[int],
        *,
        standings: Mapping[int, Standing],
        since: int,
        ephemeral: Mapping[int, list[JsonObject]],
    ) -> list[bytes] | None:
        """The entries of rooms in which something is new; None if not all can be made here."""
        if len(rooms) > 1:  # in the order in which the whole sync goes through them
            wanted = set(rooms)
            rooms = [room for room in standings if room in wanted]
        ignored = self._providers.account_data.ignored_at_once(request.user_id)
        if ignored is None:
            return None
        entries = []
        shown = []
        for room in rooms:
            part = self._part(room, standings[room].room_id, since, token.position, request.state_after)
            if part is None:
                return None
            if part.count:
                if not self._suits(part, wish, request, ignored):
                    return None
                shown.append(room)
                entries.append((room, part.opening))
        for room in {*ephemeral}.difference(shown) if ephemeral else ():
            entries.append((room, response.quiet_opening(standings[room].room_id, request.state_after)))
        join = []
        for room, opening in entries:
            unread = self._providers.unread.at_once(request.user_id, room, token.position, ignored)
            if unread is None:
                return None
            join.append(response.closed(opening, ephemeral.get(room, ()), unread, wish.threads_apart))
        return join

    def _suits(self, part: _Part, wish: _Wish, request: SyncRequest, ignored: frozenset[str]) -> bool:
        """Whether the reader gets the part as it is."""
        if part.count > wish.limit or request.user_id in part.tellers:
            return False
        if ignored and not ignored.isdisjoint(part.senders):
            return False
        if not wish.lazy:
            return True
        head = part.head
        sent = self._sent.recall(request.user_id, request.device_id, request.since)
        members = map(head.members.get, part.senders)
        return all(
            member is not None and sent.has(head.room, sender, member.ordinal)
            for sender, member in zip(part.senders, members, strict=True)
        )

    def _part(
        self, key: int, room_id: str, since: int, upto: int, state_after: StateAfter | None
    ) -> _Part | None:
        now = self._now()
        if upto != self._parts_upto or len(self._parts) >= _MOST:
            self._parts.clear()
            self._parts_upto = upto
        place = (key, since, state_after)
        part = self._parts.get(place)
        if part is None or part.until <= now:
            part = self._made(room_id, since, upto, state_after, now)
            if part is not None:
                self._parts[place] = part
        return part

    def _made(
        self, room_id: str, since: int, upto: int, state_after: StateAfter | None, now: int
    ) -> _Part | None:
        room = self._rooms.peek(room_id)
        if room is None or room.head.position > upto:
            return None
        head = room.head
        events = room.recent_since(since)
        if events is None or not all(map(_is_simple, events)):
            return None
        tellers = {entry.stored.sender for entry in events if entry.stored.transaction_id is not None}
        senders = {entry.stored.sender for entry in events}
        opening = b""
        if events:
            timeline = Timeline(room, since, upto, len(events), events=events, start=since)
            written = self._fragments.timeline(timeline, head, Reader("", None, now), STAY)
            opening = response.opening(room_id, written, state_after)
        elif head.position > since:
            return None
        until = now + _SHELF_LIFE
        return _Part(opening, len(events), frozenset(senders), frozenset(tellers), head, until)

    # Filters, and members loaded lazily.

    def _wish(self, wanted: SyncFilter) -> _Wish | None:
        """What the filter asks for; None if it chooses among rooms or events, or wants them in another form."""
        known = self._wishes.get(id(wanted))
        if known is None or known[0]() is not wanted:
            if len(self._wishes) >= _MOST:
                self._wishes.clear()
            known = self._wishes[id(wanted)] = (ref(wanted), _wish_of(wanted))
        return known[1]

    def _remember(self, request: SyncRequest, token: SyncToken) -> None:
        """The device has, at the new token, the members it had."""
        sent: Sent = self._sent.recall(request.user_id, request.device_id, request.since)
        self._sent.remember(request.user_id, request.device_id, request.since, token, sent)


_NOBODY: Final[Mapping[int, Sequence[str]]] = MappingProxyType({})
_NOTHING: Final[Mapping[int, list[JsonObject]]] = MappingProxyType({})
_NO_SECTIONS: Final = ExtensionNews({}, False)


def _is_simple(entry: RoomEvent) -> bool:
    """Whether an event means no more than itself: no state, nothing undone, on no branch, and for everybody."""
    stored = entry.stored
    return (
        stored.state_key is None
        and stored.type != "m.room.redaction"
        and not stored.flags
        and stored.after_snapshot is None
    )


def _wish_of(wanted: SyncFilter) -> _Wish | None:
    timeline, ephemeral = wanted.timeline, wanted.ephemeral
    chooses = wanted.rooms is not None or wanted.not_rooms or not timeline.selects_all
    if chooses or wanted.reshapes_events or wanted.state.include_redundant_members:
        return None
    return _Wish(
        timeline.page_limit,
        wanted.state.lazy_load_members,
        timeline.unread_thread_notifications,
        ephemeral.selects_all and ephemeral.limit is None,
    )
