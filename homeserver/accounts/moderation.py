# SPDX-License-Identifier: Apache-2.0
"""What server administrators do to accounts: look, lock, suspend, make administrators of them.

Owns who may do so to whom. The right is checked before an account is looked for, so that nobody else learns who
exists. Client-server API, "Server administration" and "Account moderation".
"""

from collections.abc import Sequence
from typing import Literal

from homeserver.accounts.actor import Actor
from homeserver.accounts.token_cache import TokenCache
from homeserver.errors import Forbidden, InvalidParam, NotFound, Unknown
from homeserver.protocol.identifiers import is_valid_user_id
from storage.devices import Device, DeviceStore
from storage.users import User, UserStore

Standing = Literal["locked", "suspended"]


class Moderation:
    """Looks after accounts on behalf of administrators."""

    def __init__(self, server_name: str, users: UserStore, devices: DeviceStore, cache: TokenCache) -> None:
        self._server_name = server_name
        self._users = users
        self._devices = devices
        self._cache = cache

    async def standing(self, actor: Actor, user_id: str, standing: Standing) -> bool:
        """Whether the account is locked, or suspended.

        Raises Forbidden for who is no administrator and about other administrators, InvalidParam for users of other
        servers, NotFound.
        """
        user = await self._moderated(actor, user_id)
        if user.admin and user_id != actor.user_id:
            raise Forbidden("That user is a server admin")
        return user.locked if standing == "locked" else user.suspended

    async def set_standing(self, actor: Actor, user_id: str, standing: Standing, value: bool) -> None:
        """Lock or unlock, suspend or unsuspend. Raises as `standing`, and Forbidden for one's own account."""
        user = await self._moderated(actor, user_id)
        if user_id == actor.user_id:
            raise Forbidden("You cannot do that to your own account")
        if user.admin:
            raise Forbidden("That user is a server admin")
        if not await self._users.set_flag(user_id, standing, value):
            raise NotFound("User not found")
        await self._cache.revoke(user_id)

    async def whois(self, actor: Actor, user_id: str) -> Sequence[Device]:
        """The devices of a user, for an administrator or the user alone. Raises Forbidden, InvalidParam, NotFound."""
        if user_id != actor.user_id:
            _check_admin(actor)
            await self._local(user_id)
        return await self._devices.list(user_id)

    async def is_admin(self, actor: Actor, user_id: str) -> bool:
        """Whether a user administers this server. Raises Forbidden, InvalidParam, NotFound."""
        return (await self._moderated(actor, user_id)).admin

    async def set_admin(self, actor: Actor, user_id: str, value: bool) -> None:
        """Make an administrator of a user, or none.

        Raises as `is_admin`, and Unknown for laying down one's own office, as nobody might be left.
        """
        user = await self._moderated(actor, user_id)
        if user_id == actor.user_id and not value:
            raise Unknown("You may not demote yourself")
        if user.guest:
            raise Forbidden("A guest cannot administer the server")
        if not await self._users.set_flag(user_id, "admin", value):
            raise NotFound("User not found")
        await self._cache.revoke(user_id)

    async def _moderated(self, actor: Actor, user_id: str) -> User:
        _check_admin(actor)
        user = await self._local(user_id)
        if user.deactivated:
            raise NotFound("User not found")
        return user

    async def _local(self, user_id: str) -> User:
        if not is_valid_user_id(user_id):
            raise InvalidParam("Not a user id")
        if user_id.partition(":")[2] != self._server_name:
            raise InvalidParam("User does not belong to the local server")
        user = await self._users.get(user_id)
        if user is None:
            raise NotFound("User not found")
        return user


def _check_admin(actor: Actor) -> None:
    if not actor.is_admin:
        raise Forbidden("You are not a server admin")
