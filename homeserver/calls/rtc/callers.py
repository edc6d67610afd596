# SPDX-License-Identifier: Apache-2.0
"""Who asks to enter a call, and whether it is a call of theirs.

Owns both questions: an OpenID token proves the user, and the room's state that they are in it. A server is asked about
its token only if it has a user in the room, or an administrator named it: nobody else can make this server knock
anywhere.
"""

from __future__ import annotations

from collections.abc import Container

from msgspec import Struct

from homeserver.errors import Forbidden, Unauthorized, UnknownToken
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of, is_valid_user_id
from homeserver.rooms.engine import RoomCache, RoomHead

_NOT_IN_ROOM = "You are not in the room of this call"


class OwnTokens(Protocol):
    """Knows the OpenID tokens of this server's users."""

    async def user_of(self, token: str) -> str:
        """Raises UnknownToken."""
        ...


class RemoteTokens(Protocol):
    """Knows other servers' OpenID tokens, by asking them."""

    async def user_of(self, server_name: str, token: str) -> str:
        """What that server says: any text. Raises UnknownToken, RemoteServerFailed, LimitExceeded."""
        ...


class NoRemoteTokens:
    """For a server that does not federate."""

    async def user_of(self, server_name: str, token: str) -> str:
        """Nobody is asked."""
        raise UnknownToken("This server does not federate")


class Caller(Struct, frozen=True, kw_only=True):
    """Somebody who may enter a call of a room."""

    user_id: str
    is_own: bool
    """Of this server."""
    full_access: bool
    """May begin it, too."""


class Callers:
    """Finds out. `full_access` are the servers, besides this one, whose users may begin calls."""

    def __init__(
        self,
        *,
        server_name: str,
        full_access: Container[str],
        own: OwnTokens,
        remote: RemoteTokens,
        rooms: RoomCache,
    ) -> None:
        self._server_name = server_name
        self._full_access = full_access
        self._own = own
        self._remote = remote
        self._rooms = rooms

    async def caller(self, *, room_id: str, server_name: str, token: str) -> Caller:
        """The caller with that token of that server. Raises Unauthorized, Forbidden, RemoteServerFailed."""
        room = await self._rooms.get(room_id)
        head = room.head if room is not None and room.head.is_resident(self._server_name) else None
        is_own = server_name == self._server_name
        trusted = is_own or server_name in self._full_access
        if not trusted and (head is None or server_name not in _servers_in(head)):
            raise Forbidden("Your server is not in the room of this call")
        user_id = await self._proven(server_name, token)
        if head is None:
            # A room that nobody here is in: this server cannot look, and leaves it to servers it was told to trust.
            if is_own:
                raise Forbidden(_NOT_IN_ROOM)
        elif not _may_be_in(head, user_id):
            raise Forbidden(_NOT_IN_ROOM)
        return Caller(user_id=user_id, is_own=is_own, full_access=trusted)

    async def _proven(self, server_name: str, token: str) -> str:
        try:
            if server_name == self._server_name:
                return await self._own.user_of(token)
            user_id = await self._remote.user_of(server_name, token)
        except UnknownToken as error:
            raise Unauthorized("The OpenID token is not valid, or no longer") from error
        if not is_valid_user_id(user_id) or domain_of(user_id) != server_name:
            raise Unauthorized("The OpenID token is of a user of another server")
        return user_id


def _servers_in(head: RoomHead) -> set[str]:
    return {server for server in head.other_hosts("") if head.server_acl.allows(server)}


def _may_be_in(head: RoomHead, user_id: str) -> bool:
    """Whether the user is joined; for a room whose members are not all known yet, whether they may well be."""
    membership = head.membership(user_id)
    if membership is None and head.partial_servers is not None:
        return domain_of(user_id) in head.partial_servers
    return membership == "join"
