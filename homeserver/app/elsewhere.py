# SPDX-License-Identifier: Apache-2.0
"""What the services reach other servers by, as one value: with federation, or without."""

from __future__ import annotations

from msgspec import Struct

from homeserver.app.core import Core
from homeserver.app.shares import shares_of
from homeserver.calls.rtc.callers import NoRemoteTokens, RemoteTokens
from homeserver.config import Config
from homeserver.devices.remote import (
    Announcing,
    NoAnnouncing,
    NoRemoteDevices,
    NoRemoteKeys,
    RemoteDevices,
    RemoteKeys,
)
from homeserver.devices.services import DeviceGround, build_device_ground, build_stored_keys
from homeserver.media.remote import NoRemoteMedia, RemoteMedia
from homeserver.presence.publication import NobodyElsewhere as NoPresence
from homeserver.presence.publication import PresenceElsewhere
from homeserver.profiles.lookup import NoRemoteProfiles, RemoteProfiles
from homeserver.receipts.service import NobodyElsewhere as NoReceipts
from homeserver.receipts.service import ReceiptsElsewhere
from homeserver.rooms.elsewhere import (
    NoRemoteDirectories,
    NoRemoteSummaries,
    RemoteDirectories,
    RemoteSummaries,
)
from homeserver.rooms.listening import Readers, readers_in, readers_in_any
from homeserver.rooms.reading.missing_history import MissingHistory, NoMissingHistory
from homeserver.rooms.remote import NoRemoteRooms, RemoteRooms
from homeserver.typing.service import NobodyElsewhere as NoTyping
from homeserver.typing.service import TypingElsewhere


class Elsewhere(Struct, frozen=True, kw_only=True):
    """Each for the service that declares it."""

    rooms: RemoteRooms
    directories: RemoteDirectories
    summaries: RemoteSummaries
    profiles: RemoteProfiles
    history: MissingHistory
    typing: TypingElsewhere
    receipts: ReceiptsElsewhere
    presence: PresenceElsewhere
    device_ground: DeviceGround
    keys: RemoteKeys
    devices: RemoteDevices
    openid: RemoteTokens
    media: RemoteMedia


def nowhere_else(config: Config, core: Core) -> Elsewhere:
    """For a server that does not federate."""
    return Elsewhere(
        rooms=NoRemoteRooms(),
        directories=NoRemoteDirectories(),
        summaries=NoRemoteSummaries(),
        profiles=NoRemoteProfiles(),
        history=NoMissingHistory(),
        typing=NoTyping(),
        receipts=NoReceipts(),
        presence=NoPresence(),
        device_ground=device_ground(config, core, NoAnnouncing()),
        keys=NoRemoteKeys(),
        devices=NoRemoteDevices(),
        openid=NoRemoteTokens(),
        media=NoRemoteMedia(),
    )


def device_ground(config: Config, core: Core, announcing: Announcing) -> DeviceGround:
    """What the services of devices stand on, which those who follow other servers' devices need before them."""
    return build_device_ground(
        origin=core.origin,
        server_name=config.server_name,
        database=core.database,
        stream=core.stream,
        committer=core.committer,
        cache=core.cache,
        user_rooms=core.user_rooms,
        readers=readers_in_any(core.cache, core.user_rooms, core.stream.listeners),
        stored_keys=build_stored_keys(core.database, config.server_name),
        announcing=announcing,
        list_bytes=shares_of(config.memory_budget).device_lists,
    )


def readers_of(core: Core) -> Readers:
    """Gives, of the users who wait, those in a room."""
    return readers_in(core.cache, core.user_rooms, core.stream.listeners)
