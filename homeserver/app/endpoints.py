# SPDX-License-Identifier: Apache-2.0
"""The endpoints, each given the services it calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.app.core import Core
from homeserver.app.services import Services
from homeserver.clientapi import calls, create_room, encryption, reading, rooms, syncing, user_data
from homeserver.clientapi.accounts import account_routes, discovery_routes
from homeserver.clientapi.calls import call_routes
from homeserver.clientapi.encryption import encryption_routes
from homeserver.clientapi.media import MediaEndpoints
from homeserver.clientapi.push_rules import PushRuleEndpoints
from homeserver.clientapi.reading import reading_routes
from homeserver.clientapi.rooms import room_routes
from homeserver.clientapi.syncing import syncing_routes
from homeserver.clientapi.token_watch import TokenWatch
from homeserver.clientapi.user_data import user_data_routes
from homeserver.clientapi.versions import UnstableFeatures
from homeserver.clientapi.websocket.methods import MethodServices
from homeserver.config import Config
from homeserver.web.admission import Admission
from homeserver.web.operations import Operations
from homeserver.web.routing import Route

HEALTH_TIMEOUT = 5.0
"""Seconds after which a database that says nothing counts as down: balancers give a check little longer."""


def build_routes(
    reactor: Any,
    config: Config,
    core: Core,
    services: Services,
    *,
    turns: Admission,
    figures: Callable[[], Awaitable[bytes]],
    replaced: Callable[[], bool],
) -> list[Route]:
    """Every route of every listener; each listener takes those of the resources it serves.

    `turns`: who may go on over WebSockets when there is too much to do. `figures` gives what `/metrics` answers;
    `replaced` tells whether another process serves in this one's place.
    """

    async def check() -> object:
        asked = Deferred.fromCoroutine(core.database.fetch_one("health", "SELECT 1"))
        return await asked.addTimeout(HEALTH_TIMEOUT, reactor)

    features = UnstableFeatures(
        (
            *rooms.UNSTABLE_FLAGS,
            *reading.UNSTABLE_FLAGS,
            *syncing.UNSTABLE_FLAGS,
            *user_data.UNSTABLE_FLAGS,
            *encryption.UNSTABLE_FLAGS,
            *calls.unstable_flags(config),
            *create_room.forced_encryption(config.rooms.encrypted_by_default),
        )
    )
    data = services.data
    tokens = TokenWatch(services.authenticator, services.accounts.cache, core.hearing)
    groups = (
        Operations(figures, check, replaced).routes(),
        account_routes(services.accounts, config, services.limits),
        room_routes(
            services.rooms,
            services.delayed.events,
            services.reports,
            config.server_name,
            active=data.presence.active,
            limits=services.limits,
        ),
        syncing_routes(
            reactor,
            long_poll=services.long_poll,
            filters=services.wanted_filters,
            sightings=data.presence,
            methods=MethodServices(
                sending=services.rooms.sending,
                setting_state=services.rooms.setting_state,
                typing=data.typing,
                receipts=data.receipts,
                presence=data.presence,
                extensions=services.device_sections,
            ),
            tokens=tokens,
            limits=services.limits,
            turns=turns,
        ),
        encryption_routes(services.devices, lambda: core.stream.position),
        MediaEndpoints(services.media).routes(),
        reading_routes(services.reading, tokens),
        PushRuleEndpoints(data.push_rules).routes(),
        user_data_routes(
            account_data=data.account_data,
            profiles=data.profiles,
            profile_lookup=data.profile_lookup,
            presence=data.presence,
            receipts=data.receipts,
            typing=data.typing,
            search=data.search,
            mutual_rooms=data.mutual_rooms,
        ),
        call_routes(
            config,
            turn=services.calls.turn,
            group=services.calls.group,
            history=services.calls.history,
        ),
        discovery_routes(config, features),
    )
    return [route for group in groups for route in group]
