# SPDX-License-Identifier: Apache-2.0
"""Whether a user of ours may be invited from elsewhere: is there such a user, and do they want to hear of it?"""

from __future__ import annotations

from homeserver.errors import Forbidden, InvalidParam, InviteBlocked
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.rooms.engine.head import host_of
from homeserver.rooms.membership.invite import InvitePermissions
from storage.users import User


class LocalUsers(Protocol):
    """Who has an account here; `storage.users.UserStore` is one."""

    async def get(self, user_id: str) -> User | None: ...


class Ignoring(Protocol):
    """Whom users ignore (`m.ignored_user_list`); `homeserver.account_data.AccountData` is one."""

    async def ignored(self, user_id: str) -> frozenset[str]: ...


class Invitees:
    """One per process."""

    def __init__(
        self, *, server_name: str, users: LocalUsers, ignoring: Ignoring, permissions: InvitePermissions
    ) -> None:
        self._server_name = server_name
        self._users = users
        self._ignoring = ignoring
        self._permissions = permissions

    async def check_user(self, user_id: str) -> None:
        """Raise InvalidParam unless it is a user id of this server, Forbidden unless somebody has it."""
        if not is_valid_user_id(user_id) or host_of(user_id) != self._server_name:
            raise InvalidParam("The invited is no user of this server")
        user = await self._users.get(user_id)
        if user is None or user.deactivated:
            raise _refused(user_id)

    async def check(self, inviter: str, user_id: str) -> None:
        """As `check_user`; and raise InviteBlocked if the user takes no invites, Forbidden if they ignore the inviter.

        That they do is not told: the words are those for a user there is not.
        """
        await self.check_user(user_id)
        if await self._permissions.blocking(inviter, (user_id,)):
            raise InviteBlocked(f"{user_id} does not accept your invite")
        if inviter in await self._ignoring.ignored(user_id):
            raise _refused(user_id)


def _refused(user_id: str) -> Forbidden:
    return Forbidden(f"{user_id} cannot be invited")
