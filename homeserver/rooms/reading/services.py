# SPDX-License-Identifier: Apache-2.0
"""The reading services, built in the order of their needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from homeserver.rooms.access import RoomGate
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.reading.aggregations import Aggregations
from homeserver.rooms.reading.by_time import EventsByTime
from homeserver.rooms.reading.context import EventContext
from homeserver.rooms.reading.event_search import EventSearch
from homeserver.rooms.reading.event_stream import Clock, EventStream, Peekers
from homeserver.rooms.reading.initial_sync import AccountData, InitialSync, Presence, Published
from homeserver.rooms.reading.member_history import MemberHistory
from homeserver.rooms.reading.members import RoomMembers
from homeserver.rooms.reading.messages import InvitePermissions, Messages
from homeserver.rooms.reading.missing_history import MissingHistory
from homeserver.rooms.reading.past_stays import PastStays
from homeserver.rooms.reading.places import Places
from homeserver.rooms.reading.presenting import Presenter
from homeserver.rooms.reading.relations import RelatedEvents
from homeserver.rooms.reading.room_state import RoomState
from homeserver.rooms.reading.single_event import SingleEvent
from homeserver.rooms.reading.stretches import Stretches
from homeserver.rooms.reading.threads import RoomThreads
from homeserver.rooms.reading.timeline import TimelineReader
from homeserver.rooms.user_rooms import UserRooms
from homeserver.rooms.whole_rooms import WholeRooms
from homeserver.stream import Stream
from storage.events import EventStore
from storage.gaps import GapStore
from storage.parents import ParentStore
from storage.relations import RelationStore
from storage.room_history import RoomHistoryStore
from storage.timelines import TimelineStore


class ReadingServices(Struct, frozen=True, kw_only=True):
    """What endpoints call."""

    messages: Messages
    context: EventContext
    event: SingleEvent
    by_time: EventsByTime
    state: RoomState
    members: RoomMembers
    related: RelatedEvents
    threads: RoomThreads
    event_stream: EventStream
    initial_sync: InitialSync
    aggregations: Aggregations
    stretches: Stretches
    """What is kept of timelines."""


def build_reading_services(
    *,
    clock: Clock,
    now: Callable[[], int],
    pause: Callable[[], Awaitable[None]],
    stream: Stream,
    gate: RoomGate,
    cache: RoomCache,
    user_rooms: UserRooms,
    events: EventStore,
    timelines: TimelineStore,
    gaps: GapStore,
    relations: RelationStore,
    parents: ParentStore,
    history: RoomHistoryStore,
    published: Published,
    account_data: AccountData,
    permissions: InvitePermissions,
    presence: Presence,
    whole: WholeRooms,
    missing: MissingHistory,
    budget: int,
) -> ReadingServices:
    """Build them all. `now` gives milliseconds; `pause` lets the reactor turn in the middle of a long response;
    `budget` is of what is kept of timelines, in bytes.
    """
    aggregations = Aggregations(relations)
    presenter = Presenter(now=now, pause=pause, aggregations=aggregations)
    walks = Places(timelines)
    stays = PastStays(snapshots=history, members=timelines)
    stretches = Stretches(parents=parents, elsewhere=missing.obtainable, budget=budget)
    timeline = TimelineReader(
        pages=gaps,
        gate=gate,
        walks=walks,
        stays=stays,
        missing=missing,
        stretches=stretches,
        seconds=clock.seconds,
    )
    search = EventSearch(gate=gate, events=events, stays=stays, missing=missing)
    peekers = Peekers()
    stream.subscribe(peekers)
    return ReadingServices(
        messages=Messages(
            gate=gate,
            timeline=timeline,
            walks=walks,
            members=MemberHistory(store=timelines, gate=gate),
            ignored_users=account_data,
            presenter=presenter,
        ),
        context=EventContext(
            gate=gate,
            search=search,
            timeline=timeline,
            store=timelines,
            ignored_users=account_data,
            presenter=presenter,
        ),
        event=SingleEvent(
            search=search, cache=cache, events=events, ignored_users=account_data, presenter=presenter
        ),
        by_time=EventsByTime(gate=gate, store=timelines, gaps=gaps, stays=stays, missing=missing),
        state=RoomState(gate=gate, store=timelines, presenter=presenter),
        members=RoomMembers(
            gate=gate, walks=walks, events=events, store=timelines, presenter=presenter, whole=whole
        ),
        related=RelatedEvents(
            gate=gate,
            timeline=timeline,
            walks=walks,
            store=relations,
            ignored_users=account_data,
            presenter=presenter,
        ),
        threads=RoomThreads(gate=gate, store=relations, ignored_users=account_data, presenter=presenter),
        aggregations=aggregations,
        stretches=stretches,
        event_stream=EventStream(
            clock=clock,
            stream=stream,
            peekers=peekers,
            gate=gate,
            cache=cache,
            user_rooms=user_rooms,
            store=timelines,
            ignored_users=account_data,
            permissions=permissions,
            presenter=presenter,
        ),
        initial_sync=InitialSync(
            stream=stream,
            gate=gate,
            cache=cache,
            user_rooms=user_rooms,
            events=events,
            history=history,
            published=published,
            account_data=account_data,
            permissions=permissions,
            presence=presence,
            presenter=presenter,
        ),
    )
