# SPDX-License-Identifier: Apache-2.0
"""Backups of room keys. Client-server API, "Server-side key backups"."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import orjson

from homeserver.devices.backups import KeyBackups, Summary
from homeserver.errors import InvalidParam, MissingParam
from homeserver.web.bodies import Struct
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route
from storage.key_backups import BackedUpKey, Backup

_MAX_BODY: Final = 16 * 1024 * 1024

Count = Annotated[int, msgspec.Meta(ge=0)]


class VersionBody(Struct, frozen=True):
    """`POST` and `PUT /room_keys/version`."""

    algorithm: str
    auth_data: dict[str, Any]
    version: str | None = None


class KeyBody(Struct, frozen=True):
    """The key of a session."""

    first_message_index: Count
    forwarded_count: Count
    is_verified: bool
    session_data: dict[str, Any]


class RoomBody(Struct, frozen=True):
    """The keys of a room."""

    sessions: dict[str, KeyBody]


class KeysBody(Struct, frozen=True):
    """The keys of many rooms."""

    rooms: dict[str, RoomBody]


class RoomKeyEndpoints:
    """`/room_keys/version…`, `/room_keys/keys…`."""

    def __init__(self, backups: KeyBackups) -> None:
        self._backups = backups

    def routes(self) -> tuple[Route, ...]:
        one, keys = "/room_keys/version/{version}", "/room_keys/keys"
        many, single = (keys, keys + "/{room_id}"), keys + "/{room_id}/{session_id}"
        return (
            Route("POST", "/room_keys/version", self.create),
            Route("GET", "/room_keys/version", self.current),
            Route("GET", one, self.get),
            Route("PUT", one, self.update),
            Route("DELETE", one, self.delete),
            *(Route("PUT", template, self.put_keys, max_body=_MAX_BODY) for template in many),
            Route("PUT", single, self.put_keys),
            *(Route("GET", template, self.keys, abandon=True) for template in (*many, single)),
            *(Route("DELETE", template, self.remove_keys) for template in (*many, single)),
        )

    async def create(self, request: MatrixRequest) -> Reply:
        """`POST /room_keys/version`."""
        body = request.body(VersionBody)
        version = await self._backups.create(request.requester.user_id, body.algorithm, body.auth_data)
        return {"version": str(version)}

    async def current(self, request: MatrixRequest) -> Reply:
        """`GET /room_keys/version`."""
        return _shown(await self._backups.get(request.requester.user_id))

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /room_keys/version/{version}`."""
        return _shown(await self._backups.get(request.requester.user_id, request.param("version")))

    async def update(self, request: MatrixRequest) -> Reply:
        """`PUT /room_keys/version/{version}`."""
        body, version = request.body(VersionBody), request.param("version")
        if body.version is not None and body.version != version:
            raise InvalidParam("The version in the body is not the one in the path")
        await self._backups.update(request.requester.user_id, version, body.algorithm, body.auth_data)
        return {}

    async def delete(self, request: MatrixRequest) -> Reply:
        """`DELETE /room_keys/version/{version}`."""
        await self._backups.delete(request.requester.user_id, request.param("version"))
        return {}

    async def put_keys(self, request: MatrixRequest) -> Reply:
        """`PUT /room_keys/keys…`."""
        room_id, session_id = _place(request)
        if room_id is None:
            rooms = request.body(KeysBody).rooms
        elif session_id is None:
            rooms = {room_id: request.body(RoomBody)}
        else:
            rooms = {room_id: RoomBody(sessions={session_id: request.body(KeyBody)})}
        keys = [
            BackedUpKey(
                room,
                session,
                key.first_message_index,
                key.forwarded_count,
                key.is_verified,
                orjson.dumps(key.session_data).decode(),
            )
            for room, body in rooms.items()
            for session, key in body.sessions.items()
        ]
        return _summary(await self._backups.put(request.requester.user_id, _version(request), keys))

    async def keys(self, request: MatrixRequest) -> Reply:
        """`GET /room_keys/keys…`."""
        user_id, version = request.requester.user_id, _version(request)
        room_id, session_id = _place(request)
        if room_id is not None and session_id is not None:
            return JsonBytes(await self._backups.key(user_id, version, room_id, session_id))
        return JsonBytes(await self._backups.keys(user_id, version, room_id))

    async def remove_keys(self, request: MatrixRequest) -> Reply:
        """`DELETE /room_keys/keys…`."""
        place = _place(request)
        return _summary(await self._backups.remove(request.requester.user_id, _version(request), *place))


def _place(request: MatrixRequest) -> tuple[str | None, str | None]:
    """Room and session of the path, as far as it names them."""
    return request.param("room_id", "") or None, request.param("session_id", "") or None


def _version(request: MatrixRequest) -> str:
    version = request.query.string("version")
    if not version:
        raise MissingParam("version is needed")
    return version


def _shown(backup: Backup) -> dict[str, object]:
    return {
        "algorithm": backup.algorithm,
        "auth_data": orjson.Fragment(backup.auth_data),
        "count": backup.count,
        "etag": str(backup.etag),
        "version": str(backup.version),
    }


def _summary(summary: Summary) -> dict[str, object]:
    return {"count": summary.count, "etag": str(summary.etag)}
