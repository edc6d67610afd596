# SPDX-License-Identifier: Apache-2.0
"""Proving to be a user of this server by password.

Owns reading user identifiers (client-server API, "Identifier types", and the forms before r0.4) and checking a
password against the account they mean. No third-party identifiers are kept, so those never match anybody.
"""

from collections.abc import Mapping
from typing import Any

from homeserver.accounts.limits import GuessLimits
from homeserver.accounts.passwords import PasswordHasher
from homeserver.errors import BadJson, Forbidden, MissingParam, Unknown
from storage.users import User, UserStore

_LONGEST_USER_ID = 255
_REFUSED = "Invalid user name or password"


def user_named_in(body: Mapping[str, Any], server_name: str) -> str | None:
    """The user id that a log-in body or an `auth` object names, in `identifier` or in the old keys.

    None for a third-party identifier, or a user of another server: nobody here. Raises MissingParam, BadJson, or
    Unknown for an unknown type of identifier.
    """
    identifier = body.get("identifier")
    if identifier is None:
        if "user" not in body and "medium" in body and "address" in body:
            return None
        return _full_user_id(body.get("user"), server_name)
    if not isinstance(identifier, Mapping):
        raise BadJson("identifier must be an object")
    match identifier.get("type"):
        case "m.id.user":
            return _full_user_id(identifier.get("user"), server_name)
        case "m.id.thirdparty" | "m.id.phone":
            return None
        case None if "medium" in identifier and "address" in identifier:
            return None
        case None:
            raise MissingParam("identifier.type is missing")
        case _:
            raise Unknown("Unknown type of user identifier")


def _full_user_id(user: object, server_name: str) -> str | None:
    if user is None:
        raise MissingParam("The user is missing")
    if not isinstance(user, str):
        raise BadJson("The user must be a string")
    user_id = user if user.startswith("@") else f"@{user}:{server_name}"
    if len(user_id) > _LONGEST_USER_ID:
        return None  # nobody's, and the limits on guessing would keep it in memory
    return user_id if user_id.partition(":")[2] == server_name else None


class PasswordCheck:
    """Checks passwords, with a brake on guessing."""

    def __init__(self, users: UserStore, hasher: PasswordHasher, limits: GuessLimits) -> None:
        self._users = users
        self._hasher = hasher
        self._limits = limits

    async def check(self, user_id: str | None, password: str) -> User:
        """The active user of that id, in any case of its letters, whose password this is.

        Raises Forbidden, alike for unknown, closed and password-less accounts and for a wrong password, and
        LimitExceeded.
        """
        if user_id is None:
            await self._hasher.verify(None, password)
            raise Forbidden(_REFUSED)
        self._limits.check(user_id.lower())
        user = await self._find(user_id)
        stored = user.password_hash if user is not None and not user.deactivated else None
        if not await self._hasher.verify(stored, password) or user is None:
            self._limits.failed(user_id.lower())
            raise Forbidden(_REFUSED)
        return user

    async def renew_hash(self, user: User, password: str) -> None:
        """Hash a password just checked anew if the parameters have changed since."""
        if user.password_hash is not None and self._hasher.is_outdated(user.password_hash):
            await self._users.replace_hash(
                user.user_id, user.password_hash, await self._hasher.hash(password)
            )

    async def _find(self, user_id: str) -> User | None:
        """New user ids are all lower case, and people capitalise names; an imported id may have capitals."""
        lowered = user_id.lower()
        found = await self._users.get_all([user_id, lowered])
        return found.get(user_id) or found.get(lowered)
