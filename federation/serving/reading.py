# SPDX-License-Identifier: Apache-2.0
"""All endpoints by which other servers read: events, states, profiles, aliases, lists of rooms. Put together in one
place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from federation.serving.backfill import BackfillEndpoint
from federation.serving.event import EventEndpoint
from federation.serving.event_auth import EventAuthEndpoint
from federation.serving.hierarchy import HierarchyEndpoint
from federation.serving.missing_events import MissingEventsEndpoint
from federation.serving.portions import LargeAnswers, StateReader
from federation.serving.public_rooms import PublicRoomsEndpoints
from federation.serving.query import OwnAliases, OwnProfiles, QueryEndpoints
from federation.serving.state import StateEndpoints
from federation.serving.timestamp_to_event import TimestampToEventEndpoint
from homeserver.rooms.directory import RoomDirectory
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.server_access import ServerGate
from homeserver.web.routing import Route
from storage.ancestors import AncestorStore
from storage.database import Database
from storage.events import EventStore
from storage.pdus import PduStore
from storage.server_memberships import ServerMembershipStore
from storage.state import StateStore
from storage.timelines import TimelineStore


def reading_routes(
    *,
    server_name: str,
    database: Database,
    cache: RoomCache,
    gate: ServerGate,
    profiles: OwnProfiles,
    aliases: OwnAliases,
    directory: RoomDirectory,
    now: Callable[[], int],
    breathe: Callable[[], Awaitable[object]],
) -> list[Route]:
    """Their routes. `now` gives milliseconds, `breathe` lets the reactor turn in the middle of a long answer."""
    events, ancestors, large = EventStore(database), AncestorStore(database), LargeAnswers()
    reader = StateReader(state=StateStore(database), pdus=PduStore(database), breathe=breathe)
    endpoints = (
        EventEndpoint(server_name=server_name, gate=gate, now=now),
        StateEndpoints(gate=gate, events=events, reader=reader, large=large),
        EventAuthEndpoint(gate=gate, events=events, reader=reader, large=large),
        BackfillEndpoint(server_name=server_name, gate=gate, ancestors=ancestors, now=now),
        MissingEventsEndpoint(gate=gate, ancestors=ancestors),
        TimestampToEventEndpoint(gate=gate, timelines=TimelineStore(database)),
        QueryEndpoints(server_name=server_name, profiles=profiles, aliases=aliases, cache=cache),
        PublicRoomsEndpoints(directory),
        HierarchyEndpoint(
            server_name=server_name, cache=cache, hosted=ServerMembershipStore(database), breathe=breathe
        ),
    )
    return [route for endpoint in endpoints for route in endpoint.routes()]
