# SPDX-License-Identifier: Apache-2.0
"""Rooms of other servers as the room services see them (`homeserver.rooms.remote.RemoteRooms`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from federation.client.answers import AliasAnswer
from federation.client.errors import BadAnswer, RemoteFailure
from federation.membership.asking import as_told
from federation.membership.inviting import RemoteInviting
from federation.membership.joining import RemoteJoining
from federation.membership.knocking import RemoteKnocking
from federation.membership.leaving import RemoteLeaving
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of, is_valid_room_id, is_valid_server_name
from homeserver.rooms.engine import Plan
from homeserver.rooms.remote import FoundRoom

MOST_ALIAS_SERVERS = 50


class DirectoryCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def query_directory(self, destination: str, room_alias: str) -> AliasAnswer: ...


class FederatedRooms:
    """One per process."""

    def __init__(
        self,
        *,
        joining: RemoteJoining,
        knocking: RemoteKnocking,
        leaving: RemoteLeaving,
        inviting: RemoteInviting,
        calls: DirectoryCalls,
    ) -> None:
        self._joining = joining
        self._knocking = knocking
        self._leaving = leaving
        self._inviting = inviting
        self._calls = calls

    async def join(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str | None:
        """See `RemoteRooms`."""
        return await self._joining.join(user_id, room_id, servers=servers, content=content)

    async def knock(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str:
        """See `RemoteRooms`."""
        return await self._knocking.knock(user_id, room_id, servers=servers, content=content)

    async def leave(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str | None:
        """See `RemoteRooms`."""
        return await self._leaving.leave(user_id, room_id, servers=servers, content=content)

    async def invite(self, room_id: str, user_id: str, plan: Plan, *, users: Sequence[str]) -> str:
        """See `RemoteRooms`."""
        return await self._inviting.invite(room_id, user_id, plan, users=users)

    def check_reachable(self, user_id: str) -> None:
        """Everybody may be."""

    async def resolve_alias(self, alias: str) -> FoundRoom:
        """See `RemoteRooms`."""
        server = domain_of(alias)
        try:
            answer = await self._calls.query_directory(server, alias)
            if not is_valid_room_id(answer.room_id):
                raise BadAnswer(server, "the alias leads to no room id")
        except RemoteFailure as failure:
            raise as_told(failure) from failure
        named = [name for name in answer.servers if is_valid_server_name(name)]
        # Who gave the alias is asked first: it is likely there, and not of a stranger's choosing.
        ordered = [server] if server in named else []
        return FoundRoom(answer.room_id, list(dict.fromkeys((*ordered, *named)))[:MOST_ALIAS_SERVERS])

    async def exchange_third_party_invite(
        self, room_id: str, *, inviter: str, user_id: str, invite: Mapping[str, Any]
    ) -> None:
        """See `RemoteInviting`."""
        await self._inviting.exchange_third_party_invite(
            room_id, inviter=inviter, user_id=user_id, invite=invite
        )
