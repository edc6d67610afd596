# SPDX-License-Identifier: Apache-2.0
"""A room's state and members, read. Client-server API, "Getting events for a room"."""

import orjson

from homeserver.rooms.reading.members import MembersQuery, RoomMembers
from homeserver.rooms.reading.room_state import RoomState
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

_MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")


class RoomStateEndpoints:
    """`state`, `members` and `joined_members`."""

    def __init__(self, *, state: RoomState, members: RoomMembers) -> None:
        self._state = state
        self._members = members

    def routes(self) -> tuple[Route, ...]:
        room = "/rooms/{room_id}"
        one = room + "/state/{event_type}"
        return (
            Route("GET", room + "/state", self.all, auth=Auth.GUEST_OK, abandon=True),
            Route("GET", one, self.one, auth=Auth.GUEST_OK, trailing_slash=True, abandon=True),
            Route("GET", one + "/{state_key}", self.one, auth=Auth.GUEST_OK, abandon=True),
            Route("GET", room + "/members", self.members, auth=Auth.GUEST_OK, abandon=True),
            Route("GET", room + "/joined_members", self.joined_members, abandon=True),
        )

    async def all(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/state`."""
        return JsonBytes(await self._state.all(request.requester, request.param("room_id")))

    async def one(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/state/{eventType}/{stateKey}`; without its last part, the state key is empty."""
        whole = request.query.enum("format", ("content", "event"), "content") == "event"
        entry = await self._state.one(
            request.requester.user_id,
            request.param("room_id"),
            request.param("event_type"),
            request.param("state_key", ""),
        )
        if whole:
            return JsonBytes(await self._state.rendered(request.requester, entry))
        return JsonBytes(orjson.dumps(entry.event.content))

    async def members(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/members`."""
        query = request.query
        asked = MembersQuery(
            at=query.string("at"),
            membership=query.enum("membership", _MEMBERSHIPS),
            not_membership=query.enum("not_membership", _MEMBERSHIPS),
        )
        return JsonBytes(await self._members.get(request.requester, request.param("room_id"), asked))

    async def joined_members(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/joined_members`."""
        joined = await self._members.joined(request.requester.user_id, request.param("room_id"))
        return {"joined": joined}
