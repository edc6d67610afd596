# SPDX-License-Identifier: Apache-2.0
"""The endpoints, each given the services it calls."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from homeserver.app.core import Core
from homeserver.app.services import Services
from homeserver.clientapi.account import AccountEndpoints
from homeserver.config import Config
from homeserver.web.operations import Operations
from homeserver.web.routing import Route


def build_routes(config: Config, core: Core, services: Services, registry: CollectorRegistry) -> list[Route]:
    """Every route of every listener; each listener takes those of the resources it serves."""

    async def check() -> object:
        return await core.database.fetch_one("health", "SELECT 1")

    accounts = services.accounts
    groups = (
        Operations(registry, check),
        AccountEndpoints(accounts.own_account),
    )
    return [route for group in groups for route in group.routes()]
