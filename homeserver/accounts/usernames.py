# SPDX-License-Identifier: Apache-2.0
"""Which names new accounts may have. Owns the rules beyond the grammar, and the look whether a name is taken."""

from homeserver.accounts.credentials import new_localpart
from homeserver.errors import InvalidUsername, UserInUse
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import localpart_of, user_id_for_registration
from storage.users import UserStore


class Usernames:
    """Turns wishes into user ids."""

    def __init__(self, server_name: str, users: UserStore) -> None:
        self._server_name = server_name
        self._users = users

    def user_id(self, username: str) -> str:
        """The user id of that name. Raises InvalidUsername."""
        try:
            return user_id_for_registration(username, self._server_name)
        except IdentifierError as error:
            raise InvalidUsername(str(error)) from error

    async def free(self, username: str) -> str:
        """The user id somebody may take by themselves. Raises InvalidUsername, UserInUse."""
        user_id = self.user_id(username)
        if localpart_of(user_id).startswith("_"):
            raise InvalidUsername("User names that begin with _ are left to bridges and bots")
        if await self._users.existing([user_id]):
            raise UserInUse
        return user_id

    def generated(self) -> str:
        """A user id for who has no wish."""
        return self.user_id(new_localpart())
