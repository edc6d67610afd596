# SPDX-License-Identifier: Apache-2.0
"""The routes of everything that reads rooms."""

from typing import Final

from homeserver.clientapi.event_stream import EventStreamEndpoints
from homeserver.clientapi.room_relations import RoomRelationEndpoints
from homeserver.clientapi.room_state import RoomStateEndpoints
from homeserver.clientapi.room_timeline import RoomTimelineEndpoints
from homeserver.clientapi.token_watch import TokenWatch
from homeserver.rooms.reading.services import ReadingServices
from homeserver.web.routing import Route

UNSTABLE_FLAGS: Final = (
    "org.matrix.msc3030",
    "org.matrix.msc3030.stable",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3715.stable",
    "org.matrix.msc3856.stable",
    "org.matrix.msc3981",
)
"""What `/versions` may promise once these routes are served."""


def reading_routes(reading: ReadingServices, tokens: TokenWatch) -> tuple[Route, ...]:
    """All of them."""
    return (
        *RoomTimelineEndpoints(
            messages=reading.messages, context=reading.context, event=reading.event, by_time=reading.by_time
        ).routes(),
        *RoomRelationEndpoints(related=reading.related, threads=reading.threads).routes(),
        *RoomStateEndpoints(state=reading.state, members=reading.members).routes(),
        *EventStreamEndpoints(
            stream=reading.event_stream, initial_sync=reading.initial_sync, tokens=tokens
        ).routes(),
    )
