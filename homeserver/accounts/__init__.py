# SPDX-License-Identifier: Apache-2.0
"""Accounts: who has one, how they log in, what proves it, and what they and administrators do with it.

Owns users, devices, tokens, user-interactive authentication, filters and OpenID tokens of this server's users. Not
profiles, account data or rooms: what those do when an account begins or ends stands behind `ArrivingUser` and
`DepartingUser`. `build_accounts` puts the services together.
"""

from homeserver.accounts.accounts import Accounts, build_accounts
from homeserver.accounts.actor import Actor
from homeserver.accounts.lifecycle import ArrivingUser, DepartingUser
from homeserver.accounts.limits import GuessLimits

__all__ = ["Accounts", "Actor", "ArrivingUser", "DepartingUser", "GuessLimits", "build_accounts"]
