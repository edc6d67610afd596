# SPDX-License-Identifier: Apache-2.0
"""The routes of everything that changes rooms or lists them."""

from collections.abc import Callable
from typing import Final

from homeserver.clientapi.create_room import CreateRoomEndpoints
from homeserver.clientapi.delayed_events import DelayedEventEndpoints
from homeserver.clientapi.reporting import ReportingEndpoints
from homeserver.clientapi.room_aliases import RoomAliasEndpoints
from homeserver.clientapi.room_directory import RoomDirectoryEndpoints
from homeserver.clientapi.room_membership import RoomMembershipEndpoints, RoomModerationEndpoints
from homeserver.clientapi.room_sending import RoomSendingEndpoints
from homeserver.clientapi.room_summary import RoomSummaryEndpoints
from homeserver.clientapi.room_upgrade import RoomUpgradeEndpoints
from homeserver.clientapi.spaces import SpaceEndpoints
from homeserver.reports import Reports
from homeserver.rooms.delayed.events import DelayedEvents
from homeserver.rooms.services import RoomServices
from homeserver.web.rate_limits import RateLimits
from homeserver.web.routing import Route

UNSTABLE_FLAGS: Final = (
    "com.beeper.msc4169",
    "org.matrix.msc2432",
    "org.matrix.msc4140",
    "org.matrix.msc3827.stable",
    "org.matrix.msc4151",
)
"""What `/versions` may promise once these routes are served."""


def room_routes(
    rooms: RoomServices,
    delayed: DelayedEvents,
    reports: Reports,
    server_name: str,
    *,
    active: Callable[[str], object],
    limits: RateLimits,
) -> tuple[Route, ...]:
    """All of them. `active` is told of users who do something."""
    return (
        *CreateRoomEndpoints(rooms.creation).routes(),
        *RoomUpgradeEndpoints(rooms.upgrade).routes(),
        *RoomMembershipEndpoints(
            locator=rooms.locator,
            user_rooms=rooms.user_rooms,
            joining=rooms.joining,
            knocking=rooms.knocking,
            leaving=rooms.leaving,
            forgetting=rooms.forgetting,
        ).routes(),
        *RoomModerationEndpoints(
            inviting=rooms.inviting,
            kicking=rooms.kicking,
            banning=rooms.banning,
            unbanning=rooms.unbanning,
        ).routes(),
        *RoomSendingEndpoints(
            sending=rooms.sending,
            redacting=rooms.redacting,
            setting_state=rooms.setting_state,
            delayed=delayed,
            active=active,
        ).routes(),
        *DelayedEventEndpoints(delayed, limits).routes(),
        *RoomAliasEndpoints(aliases=rooms.aliases, locator=rooms.locator, server_name=server_name).routes(),
        *RoomDirectoryEndpoints(directory=rooms.directory, server_name=server_name).routes(),
        *RoomSummaryEndpoints(rooms.summaries).routes(),
        *SpaceEndpoints(rooms.spaces).routes(),
        *ReportingEndpoints(reports).routes(),
    )
