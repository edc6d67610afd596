# SPDX-License-Identifier: Apache-2.0
"""Account data, global and per room. Client-server API, "Client Config"; deletion by MSC3391."""

from __future__ import annotations

from homeserver.account_data.service import SERVER_MANAGED, AccountData
from homeserver.clientapi.path_user import own_user_id
from homeserver.errors import InvalidParam, NotFound
from homeserver.protocol.identifiers import is_valid_room_id
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import CLIENT, Route

_DELETION = ("/_matrix/client/unstable/org.matrix.msc3391",)
_GLOBAL = "/user/{user_id}/account_data/"
_ROOM = "/user/{user_id}/rooms/{room_id}/account_data/"


class AccountDataEndpoints:
    """`/user/{userId}/account_data/{type}`, `/user/{userId}/rooms/{roomId}/account_data/{type}`."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    def routes(self) -> tuple[Route, ...]:
        routes: list[Route] = []
        for prefix in (_GLOBAL, _ROOM):
            template = prefix + "{type}"
            routes.append(Route("GET", template, self.get))
            routes.append(Route("PUT", template, self.put))
            routes.append(Route("DELETE", template, self.delete, under=_DELETION))
            # Only of these types is M_BAD_JSON a 405 ("Server Behaviour").
            for event_type in sorted(SERVER_MANAGED):
                managed = prefix + event_type
                statuses = {"M_BAD_JSON": 405}
                routes.append(Route("PUT", managed, self.refuse, under=CLIENT, statuses=statuses))
                routes.append(Route("DELETE", managed, self.refuse, under=_DELETION, statuses=statuses))
        return tuple(routes)

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET …/account_data/{type}`."""
        user_id, room_id = own_user_id(request), _room_id(request)
        if room_id is None:
            content = await self._account_data.get(user_id, request.param("type"))
        else:
            content = await self._account_data.find(user_id, room_id, request.param("type"))
        if content is None:
            raise NotFound("Account data not found")
        return content

    async def put(self, request: MatrixRequest) -> Reply:
        """`PUT …/account_data/{type}`."""
        user_id, room_id = own_user_id(request), _room_id(request)
        await self._account_data.put(user_id, request.param("type"), request.json_object(), room_id)
        return {}

    async def delete(self, request: MatrixRequest) -> Reply:
        """`DELETE …/account_data/{type}`."""
        await self._account_data.delete(own_user_id(request), request.param("type"), _room_id(request))
        return {}

    async def refuse(self, request: MatrixRequest) -> Reply:
        """Setting or deleting what the server manages: refused by the service, in its words."""
        event_type = request.path.rpartition("/")[2]
        await self._account_data.put(own_user_id(request), event_type, {}, _room_id(request))
        return {}


def _room_id(request: MatrixRequest) -> str | None:
    """`{roomId}` of the path, if it has one. Raises InvalidParam."""
    room_id = request.param("room_id", "")
    if room_id and not is_valid_room_id(room_id):
        raise InvalidParam(f"{room_id} is not a valid room ID")
    return room_id or None
