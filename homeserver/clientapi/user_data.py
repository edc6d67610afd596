# SPDX-License-Identifier: Apache-2.0
"""Every endpoint of what users keep and show of themselves, put together for the composition root."""

from __future__ import annotations

from typing import Final

from homeserver.account_data.service import AccountData
from homeserver.account_data.tags import Tags
from homeserver.clientapi.account_data import AccountDataEndpoints
from homeserver.clientapi.presence import PresenceEndpoints
from homeserver.clientapi.profile import ProfileEndpoints
from homeserver.clientapi.receipts import ReceiptEndpoints
from homeserver.clientapi.tags import TagEndpoints
from homeserver.clientapi.typing import TypingEndpoints
from homeserver.clientapi.user_directory import UserDirectoryEndpoints
from homeserver.directory import MutualRooms, UserSearch
from homeserver.presence.service import Presence
from homeserver.profiles.lookup import ProfileLookup
from homeserver.profiles.service import Profiles
from homeserver.receipts.service import Receipts
from homeserver.typing.service import Typing
from homeserver.web.routing import Route

UNSTABLE_FLAGS: Final = (
    "org.matrix.msc2285.stable",
    "org.matrix.msc3391",
    "org.matrix.msc4380.stable",
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
    "us.cloke.msc4175.stable",
)
"""What `/versions` may promise once these routes are served."""


def user_data_routes(
    *,
    account_data: AccountData,
    profiles: Profiles,
    profile_lookup: ProfileLookup,
    presence: Presence,
    receipts: Receipts,
    typing: Typing,
    search: UserSearch,
    mutual_rooms: MutualRooms,
) -> tuple[Route, ...]:
    """The endpoints of account data, tags, receipts, typing, presence, profiles and the user directory."""
    return (
        *AccountDataEndpoints(account_data).routes(),
        *TagEndpoints(Tags(account_data)).routes(),
        *ReceiptEndpoints(receipts, presence.active).routes(),
        *TypingEndpoints(typing, presence.active).routes(),
        *PresenceEndpoints(presence).routes(),
        *ProfileEndpoints(profiles=profiles, lookup=profile_lookup).routes(),
        *UserDirectoryEndpoints(search, mutual_rooms).routes(),
    )
