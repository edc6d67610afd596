# SPDX-License-Identifier: Apache-2.0
"""Membership of rooms. Client-server API, "Room membership", "Joining rooms", "Leaving rooms" and the rest."""

from typing import Any

from homeserver.clientapi.named_servers import named_servers
from homeserver.errors import InvalidParam, MissingParam, ServerNotTrusted
from homeserver.protocol.identifiers import is_valid_room_id
from homeserver.rooms.locating import RoomLocator
from homeserver.rooms.membership.ban import Banning
from homeserver.rooms.membership.forget import Forgetting
from homeserver.rooms.membership.invite import Inviting
from homeserver.rooms.membership.join import Joining
from homeserver.rooms.membership.kick import Kicking
from homeserver.rooms.membership.knock import Knocking
from homeserver.rooms.membership.leave import Leaving
from homeserver.rooms.membership.unban import Unbanning
from homeserver.rooms.remote import FoundRoom
from homeserver.rooms.user_rooms import UserRooms
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route


class ReasonBody(Struct, frozen=True):
    """A body that may say why."""

    reason: str | None = None


class JoinBody(Struct, frozen=True):
    """The body of a join."""

    reason: str | None = None
    third_party_signed: dict[str, Any] | None = None


class TargetBody(Struct, frozen=True):
    """A body that names a user; by `medium` and `address` where an identity server would be asked."""

    user_id: str | None = None
    reason: str | None = None
    medium: str | None = None
    address: str | None = None


class RoomMembershipEndpoints:
    """Who is in which room."""

    def __init__(
        self,
        *,
        locator: RoomLocator,
        user_rooms: UserRooms,
        joining: Joining,
        knocking: Knocking,
        leaving: Leaving,
        forgetting: Forgetting,
    ) -> None:
        self._locator = locator
        self._user_rooms = user_rooms
        self._joining = joining
        self._knocking = knocking
        self._leaving = leaving
        self._forgetting = forgetting

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "POST",
                "/join/{room_id_or_alias}",
                self.join,
                auth=Auth.GUEST_OK,
                limit="joins",
                suspended_ok=False,
            ),
            Route(
                "POST",
                "/rooms/{room_id}/join",
                self.join_by_id,
                auth=Auth.GUEST_OK,
                limit="joins",
                suspended_ok=False,
            ),
            Route("POST", "/knock/{room_id_or_alias}", self.knock, limit="joins", suspended_ok=False),
            Route("POST", "/rooms/{room_id}/leave", self.leave, auth=Auth.GUEST_OK),
            Route("POST", "/rooms/{room_id}/forget", self.forget),
            Route("GET", "/joined_rooms", self.joined_rooms),
        )

    async def join(self, request: MatrixRequest) -> Reply:
        """`POST /join/{roomIdOrAlias}`."""
        return await self._join(request, await self._room(request))

    async def join_by_id(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/join`."""
        return await self._join(request, FoundRoom(request.param("room_id"), named_servers(request)))

    async def _join(self, request: MatrixRequest, room: FoundRoom) -> Reply:
        body = request.body(JoinBody, empty_ok=True)
        if body.third_party_signed is not None:
            raise ServerNotTrusted("This server works with no identity server; join with an invite instead")
        await self._joining.join(request.requester, room.room_id, servers=room.servers, reason=body.reason)
        return {"room_id": room.room_id}

    async def knock(self, request: MatrixRequest) -> Reply:
        """`POST /knock/{roomIdOrAlias}`."""
        room = await self._room(request)
        body = request.body(ReasonBody, empty_ok=True)
        await self._knocking.knock(request.requester, room.room_id, servers=room.servers, reason=body.reason)
        return {"room_id": room.room_id}

    async def leave(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/leave`."""
        body = request.body(ReasonBody, empty_ok=True)
        await self._leaving.leave(request.requester, request.param("room_id"), reason=body.reason)
        return {}

    async def forget(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/forget`."""
        await self._forgetting.forget(request.requester, request.param("room_id"))
        return {}

    async def joined_rooms(self, request: MatrixRequest) -> Reply:
        """`GET /joined_rooms`."""
        joined = await self._user_rooms.joined(request.requester.user_id)
        return {"joined_rooms": [standing.room_id for standing in joined]}

    async def _room(self, request: MatrixRequest) -> FoundRoom:
        named = request.param("room_id_or_alias")
        if not named.startswith("#") and not is_valid_room_id(named):
            raise InvalidParam("That is neither a room id nor a room alias")
        return await self._locator.locate(named, named_servers(request))


class RoomModerationEndpoints:
    """What members do to each other."""

    def __init__(
        self, *, inviting: Inviting, kicking: Kicking, banning: Banning, unbanning: Unbanning
    ) -> None:
        self._inviting = inviting
        self._kicking = kicking
        self._banning = banning
        self._unbanning = unbanning

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/rooms/{room_id}/invite", self.invite, limit="invites", suspended_ok=False),
            Route("POST", "/rooms/{room_id}/kick", self.kick, suspended_ok=False),
            Route("POST", "/rooms/{room_id}/ban", self.ban, suspended_ok=False),
            Route("POST", "/rooms/{room_id}/unban", self.unban, suspended_ok=False),
        )

    async def invite(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/invite`, by user id."""
        body = request.body(TargetBody)
        if body.user_id is None and (body.medium is not None or body.address is not None):
            raise ServerNotTrusted(
                "This server works with no identity server, so it cannot invite by address"
            )
        await self._inviting.invite(
            request.requester, request.param("room_id"), _target(body), reason=body.reason
        )
        return {}

    async def kick(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/kick`."""
        body = request.body(TargetBody)
        await self._kicking.kick(
            request.requester, request.param("room_id"), _target(body), reason=body.reason
        )
        return {}

    async def ban(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/ban`."""
        body = request.body(TargetBody)
        await self._banning.ban(
            request.requester, request.param("room_id"), _target(body), reason=body.reason
        )
        return {}

    async def unban(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/unban`."""
        body = request.body(TargetBody)
        await self._unbanning.unban(
            request.requester, request.param("room_id"), _target(body), reason=body.reason
        )
        return {}


def _target(body: TargetBody) -> str:
    if body.user_id is None:
        raise MissingParam("user_id is missing")
    return body.user_id
