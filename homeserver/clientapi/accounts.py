# SPDX-License-Identifier: Apache-2.0
"""Every endpoint of accounts and discovery, put together for the composition root."""

from homeserver.accounts import Accounts
from homeserver.clientapi import admin
from homeserver.clientapi.account import AccountEndpoints
from homeserver.clientapi.admin import AdminEndpoints
from homeserver.clientapi.capabilities import CapabilityEndpoints
from homeserver.clientapi.devices import DeviceEndpoints
from homeserver.clientapi.filters import FilterEndpoints
from homeserver.clientapi.login import LoginEndpoints
from homeserver.clientapi.openid import OpenIdEndpoints
from homeserver.clientapi.registration import RegistrationEndpoints
from homeserver.clientapi.synapse_admin import SynapseAdminEndpoints
from homeserver.clientapi.uia_fallback import UiaFallback
from homeserver.clientapi.versions import UnstableFeatures, VersionEndpoints
from homeserver.clientapi.well_known import WellKnownEndpoints, login_document
from homeserver.config.sections import Config
from homeserver.web.rate_limits import RateLimits
from homeserver.web.routing import Route


def account_routes(accounts: Accounts, config: Config, limits: RateLimits) -> tuple[Route, ...]:
    """The endpoints of log-in, registration, accounts, devices, filters, OpenID and administration."""
    return (
        *LoginEndpoints(
            accounts.login, accounts.login_tokens, accounts.sessions, login_document(config)
        ).routes(),
        *RegistrationEndpoints(accounts.registration, accounts.gate, limits).routes(),
        *UiaFallback(accounts.uia, accounts.gate).routes(),
        *AccountEndpoints(accounts.own_account).routes(),
        *DeviceEndpoints(accounts.own_devices).routes(),
        *FilterEndpoints(accounts.filters).routes(),
        *OpenIdEndpoints(config.server_name, accounts.openid).routes(),
        *AdminEndpoints(accounts.moderation).routes(),
        *SynapseAdminEndpoints(accounts.shared_secret, accounts.moderation, accounts.usernames).routes(),
    )


def discovery_routes(config: Config, features: UnstableFeatures) -> tuple[Route, ...]:
    """The endpoints by which clients learn what is here. `features` must be complete when this is called."""
    features.add(admin.UNSTABLE_FLAG)
    return (
        *VersionEndpoints(features).routes(),
        *WellKnownEndpoints(config).routes(),
        *CapabilityEndpoints(config.rooms.default_version, config.delayed_events).routes(),
    )
