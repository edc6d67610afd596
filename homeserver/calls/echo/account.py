# SPDX-License-Identifier: Apache-2.0
"""The account: the server's own, without a password, so that nobody can log in to it or take its name."""

from __future__ import annotations

from msgspec import Struct

from homeserver.accounts.account_maker import AccountMaker
from homeserver.config import StartRefused
from homeserver.errors import UserInUse
from homeserver.needs import Protocol
from storage.users import SERVERS_OWN, NewUser, User


class EchoActor(Struct, frozen=True):
    """Who acts: an ordinary user without a device."""

    user_id: str
    device_id: None = None
    is_guest: bool = False
    is_admin: bool = False
    is_suspended: bool = False


class Users(Protocol):
    """What is needed of `storage.users.UserStore`."""

    async def get(self, user_id: str) -> User | None: ...


async def ensure_account(users: Users, maker: AccountMaker, user_id: str, display_name: str) -> None:
    """Make the account unless it is there. Raises StartRefused if the name is a person's."""
    if await _is_ours(users, user_id):
        return
    try:
        new = NewUser(user_id=user_id, password_hash=None, user_type=SERVERS_OWN)
        await maker.make(new, device=None, display_name=display_name)
    except UserInUse:  # another process was quicker
        if not await _is_ours(users, user_id):
            raise


async def _is_ours(users: Users, user_id: str) -> bool:
    user = await users.get(user_id)
    if user is None:
        return False
    if user.user_type != SERVERS_OWN or user.deactivated:
        raise StartRefused(f"calls.echo_user: {user_id} is somebody's account; choose another name")
    return True
