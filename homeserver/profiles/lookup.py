# SPDX-License-Identifier: Apache-2.0
"""Anybody's profile for this server's clients: our users' own, others' by asking their server.

Owns the choice; `service` keeps ours, and other servers are never told of anybody else's by way of us.
"""

from __future__ import annotations

from typing import Any

from homeserver.errors import NotFound
from homeserver.needs import Protocol
from homeserver.profiles.fields import check_key
from homeserver.profiles.service import Profiles
from homeserver.protocol.identifiers import domain_of


class RemoteProfiles(Protocol):
    """Profiles of other servers' users."""

    async def profile(self, user_id: str) -> dict[str, Any]:
        """As that server tells it, checked as far as the specification names fields.

        Raises NotFound, Forbidden, RemoteServerFailed, LimitExceeded.
        """
        ...


class NoRemoteProfiles:
    """For a server that does not federate."""

    async def profile(self, user_id: str) -> dict[str, Any]:
        """Nobody is asked."""
        raise NotFound("Profile not found")


class ProfileLookup:
    """One per process."""

    def __init__(self, *, server_name: str, own: Profiles, remote: RemoteProfiles) -> None:
        self._server_name = server_name
        self._own = own
        self._remote = remote

    async def get(self, user_id: str) -> dict[str, Any]:
        """The whole profile. Raises NotFound, and for other servers' users what `RemoteProfiles` does."""
        if domain_of(user_id) == self._server_name:
            return await self._own.get(user_id)
        return await self._remote.profile(user_id)

    async def get_field(self, user_id: str, key: str) -> Any:
        """One field's value. Raises as `get`, InvalidParam, KeyTooLarge."""
        check_key(key)
        profile = await self.get(user_id)
        if key not in profile:
            raise NotFound("The profile has no such field")
        return profile[key]
