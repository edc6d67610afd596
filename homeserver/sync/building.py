# SPDX-License-Identifier: Apache-2.0
"""The sync put together from what the process has."""

from __future__ import annotations

from collections.abc import Callable

from homeserver.rooms.access import RoomGate
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.reading.aggregations import Aggregations
from homeserver.rooms.user_rooms import UserRooms
from homeserver.stream import Stream
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.sync.beside import Providers
from homeserver.sync.bundles import TimelineBundles
from homeserver.sync.called import CalledRooms
from homeserver.sync.fragments import TimelineFragments
from homeserver.sync.joined import JoinedRooms
from homeserver.sync.lazy_members import SentMembers
from homeserver.sync.left import LeftRooms
from homeserver.sync.moves import RoomMoves
from homeserver.sync.service import Sections, SyncService
from homeserver.sync.shortcut import Shortcut
from homeserver.sync.state import EventLoader
from homeserver.sync.summary import Summaries
from homeserver.sync.survey import Surveyor
from homeserver.sync.timeline import Timelines
from storage.database import Database
from storage.events import EventStore
from storage.memberships import MembershipStore
from storage.relations import RelationStore
from storage.room_history import RoomHistoryStore


def build_sync(
    *,
    database: Database,
    stream: Stream,
    clock: EphemeralClock,
    cache: RoomCache,
    member_events: MemberEvents,
    user_rooms: UserRooms,
    gate: RoomGate,
    providers: Providers,
    now: Callable[[], int],
    fragments: TimelineFragments | None = None,
    sent: SentMembers | None = None,
) -> SyncService:
    """`now` gives the wall clock in milliseconds. `fragments` and `sent` are made where none are given."""
    events, history = EventStore(database), RoomHistoryStore(database)
    loader, timelines = EventLoader(member_events, events), Timelines(events)
    sections = Sections(
        surveyor=Surveyor(user_rooms, MembershipStore(database), stream.rooms, providers.invites),
        joined=JoinedRooms(
            rooms=cache,
            moved=stream.rooms,
            history=history,
            timelines=timelines,
            store=events,
            sights=gate,
            loader=loader,
            summaries=Summaries(),
        ),
        left=LeftRooms(rooms=cache, history=history, timelines=timelines, sights=gate, loader=loader),
        called=CalledRooms(rooms=cache, loader=loader),
        fragments=fragments or TimelineFragments(),
        bundles=TimelineBundles(Aggregations(RelationStore(database))),
        sent=sent or SentMembers(),
    )
    moves = RoomMoves(stream.position)
    stream.subscribe(moves)
    shortcut = Shortcut(
        stream=stream,
        clock=clock,
        moves=moves,
        user_moved=stream.users,
        user_rooms=user_rooms,
        rooms=cache,
        fragments=sections.fragments,
        sent=sections.sent,
        providers=providers,
        now=now,
    )
    return SyncService(
        stream=stream,
        user_moved=stream.users,
        clock=clock,
        sections=sections,
        providers=providers,
        shortcut=shortcut,
        now=now,
    )
