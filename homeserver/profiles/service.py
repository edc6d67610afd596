# SPDX-License-Identifier: Apache-2.0
"""Profiles of this server's users (client-server API, "Profiles").

Owns reading and changing them, and that a changed name reaches the rooms, the directory and presence. Profiles of
other servers' users are `lookup`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from homeserver.errors import NotFound
from homeserver.needs import Protocol
from homeserver.profiles.fields import AVATAR_URL, DISPLAYNAME, as_dict, check_key, with_field, without_field
from homeserver.protocol.identifiers import localpart_of
from storage.database import Database, Transaction
from storage.profiles import Profile, ProfileStore

logger = logging.getLogger(__name__)

MOST_TELLINGS: Final = 5
"""How often a change is told anew because the names are others by then; whoever made them those tells them, too."""


class Propagation(Protocol):
    """Carries names into the rooms."""

    async def propagate_profile(self, user_id: str, changes: Mapping[str, str | None]) -> None: ...


class Watcher(Protocol):
    """Wants to know of changed names at once."""

    def profile_changed(self, user_id: str, names: Mapping[str, str | None]) -> None:
        """`names`: display name and avatar URL as they are now."""


class Index(Protocol):
    """Where users are found by their names."""

    async def put_txn(
        self, txn: Transaction, user_id: str, display_name: str | None, avatar_url: str | None
    ) -> None: ...

    async def remove_txn(self, txn: Transaction, user_id: str) -> None: ...


class Profiles:
    """One per process."""

    def __init__(
        self,
        *,
        database: Database,
        store: ProfileStore,
        index: Index,
        propagation: Propagation,
        watcher: Watcher,
    ) -> None:
        self._database = database
        self._store = store
        self._index = index
        self._propagation = propagation
        self._watcher = watcher

    # Reading.

    async def get(self, user_id: str) -> dict[str, Any]:
        """The whole profile. Raises NotFound for whom there is no account here, or none any more."""
        profile = await self._store.get(user_id)
        if profile is None:
            raise NotFound("Profile not found")
        return as_dict(profile)

    async def get_field(self, user_id: str, key: str) -> Any:
        """One field's value. Raises NotFound, InvalidParam, KeyTooLarge."""
        check_key(key)
        profile = await self.get(user_id)
        if key not in profile:
            raise NotFound("The profile has no such field")
        return profile[key]

    async def member_profiles(self, user_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """`displayname` and `avatar_url`, where set, by user."""
        found: dict[str, dict[str, str]] = {}
        for user_id, (displayname, avatar_url) in (await self._store.names(user_ids)).items():
            names = _names(displayname, avatar_url)
            found[user_id] = {key: value for key, value in names.items() if value is not None}
        return found

    # Changing.

    async def set_field(self, user_id: str, key: str, value: Any) -> None:
        """Set a field; returns once rooms show a changed name. Raises InvalidParam, KeyTooLarge, ProfileTooLarge."""
        await self._change(user_id, key, lambda profile: with_field(profile, key, value))

    async def delete_field(self, user_id: str, key: str) -> None:
        """Remove a field, be it there or not. Raises InvalidParam, KeyTooLarge."""
        await self._change(user_id, key, lambda profile: without_field(profile, key))

    async def arrive(self, user_id: str, display_name: str | None) -> None:
        """A new account; `display_name` None: named like the localpart."""
        profile = with_field(Profile(), DISPLAYNAME, (display_name or localpart_of(user_id))[:256])

        async def work(txn: Transaction) -> None:
            await self._put_txn(txn, user_id, profile)

        await self._database.transaction("profile_arrive", work)

    async def depart(self, user_id: str, *, erase: bool) -> None:
        """The account was closed: the profile goes in any case."""

        async def work(txn: Transaction) -> None:
            await self._store.delete_txn(txn, user_id)
            await self._index.remove_txn(txn, user_id)

        await self._database.transaction("profile_depart", work)

    async def _change(self, user_id: str, key: str, change: Callable[[Profile], Profile]) -> None:
        async def work(txn: Transaction) -> Profile:
            before = await self._store.lock_txn(txn, user_id)
            after = change(before)
            if after != before:
                await self._put_txn(txn, user_id, after)
            return after

        after = await self._database.transaction("profile_change", work)
        names = _names(after.displayname, after.avatar_url)
        if key in names:
            # Also when it was set before: then this may be the repetition of a request that broke off half-way.
            await self._tell(user_id, names, {key: names[key]})

    async def _tell(
        self, user_id: str, names: Mapping[str, str | None], changes: Mapping[str, str | None]
    ) -> None:
        """Have changed names shown, until what was told last is what stands: of two changes at once, be it in two
        processes, the earlier may be told last.
        """
        for _ in range(MOST_TELLINGS):
            self._watcher.profile_changed(user_id, names)
            await self._propagation.propagate_profile(user_id, changes)
            found = (await self._store.names((user_id,))).get(user_id)
            if found is None:  # the account was closed meanwhile
                return
            standing = _names(*found)
            changes = {key: value for key, value in standing.items() if value != names[key]}
            if not changes:
                return
            names = standing
        logger.warning("the names of %s change faster than rooms can be told", user_id)

    async def _put_txn(self, txn: Transaction, user_id: str, profile: Profile) -> None:
        await self._store.put_txn(txn, user_id, profile)
        await self._index.put_txn(txn, user_id, profile.displayname, profile.avatar_url)


def _names(displayname: str | None, avatar_url: str | None) -> dict[str, str | None]:
    """What rooms show."""
    return {DISPLAYNAME: displayname, AVATAR_URL: avatar_url}
