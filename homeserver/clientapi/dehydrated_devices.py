# SPDX-License-Identifier: Apache-2.0
"""Dehydrated devices, MSC3814. Owns the two ways of reading their messages that clients know.

`GET …/events?from=` gives a `next_batch` while there is more; `POST …/events` always gives one, and its clients stop
where there are no events.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import orjson

from homeserver.accounts.sessions import check_display_name
from homeserver.devices.dehydrated import DehydratedDevices, Dehydration
from homeserver.devices.messages import Waiting
from homeserver.errors import InvalidParam
from homeserver.web.bodies import Struct
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Route

_PREFIX: Final = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
_MAX_BODY: Final = 1024 * 1024
"""Bytes: a device and its one-time keys."""
_TOKEN: Final = re.compile(r"d(0|[1-9][0-9]{0,17})")


class DehydratedDeviceBody(Struct, frozen=True):
    """`PUT /dehydrated_device`."""

    device_id: str
    device_data: dict[str, Any]
    device_keys: dict[str, Any]
    initial_device_display_name: str | None = None
    one_time_keys: dict[str, Any] | None = None
    fallback_keys: dict[str, Any] | None = None


class EventsBody(Struct, frozen=True):
    """`POST /dehydrated_device/{device_id}/events`."""

    next_batch: str | None = None


class DehydratedDeviceEndpoints:
    """`/dehydrated_device`, `/dehydrated_device/{device_id}/events`."""

    def __init__(self, devices: DehydratedDevices, position: Callable[[], int]) -> None:
        """`position` tells how far the stream may be shown."""
        self._devices = devices
        self._position = position

    def routes(self) -> tuple[Route, ...]:
        events = f"{_PREFIX}/{{device_id}}/events"
        return (
            Route("PUT", _PREFIX, self.put, under=ROOT, max_body=_MAX_BODY),
            Route("GET", _PREFIX, self.get, under=ROOT),
            Route("DELETE", _PREFIX, self.delete, under=ROOT),
            Route("GET", events, self.get_events, under=ROOT),
            Route("POST", events, self.post_events, under=ROOT),
        )

    async def put(self, request: MatrixRequest) -> Reply:
        """`PUT /dehydrated_device`."""
        body = request.body(DehydratedDeviceBody)
        if body.initial_device_display_name is not None:
            check_display_name(body.initial_device_display_name)
        wanted = Dehydration(
            device_id=body.device_id,
            device_data=body.device_data,
            display_name=body.initial_device_display_name,
            device_keys=body.device_keys,
            one_time_keys=body.one_time_keys or {},
            fallback_keys=body.fallback_keys or {},
        )
        await self._devices.put(request.requester.user_id, wanted)
        return {"device_id": body.device_id}

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /dehydrated_device`."""
        device = await self._devices.get(request.requester.user_id)
        return {"device_id": device.device_id, "device_data": orjson.loads(device.device_data)}

    async def delete(self, request: MatrixRequest) -> Reply:
        """`DELETE /dehydrated_device`."""
        return {"device_id": await self._devices.delete(request.requester.user_id)}

    async def get_events(self, request: MatrixRequest) -> Reply:
        """`GET /dehydrated_device/{device_id}/events`."""
        waiting = await self._waiting(request, request.query.string("from"), self._position())
        return _page(waiting, waiting.told)

    async def post_events(self, request: MatrixRequest) -> Reply:
        """`POST /dehydrated_device/{device_id}/events`."""
        upto = self._position()
        waiting = await self._waiting(request, request.body(EventsBody, empty_ok=True).next_batch, upto)
        return _page(waiting, waiting.told or upto)

    async def _waiting(self, request: MatrixRequest, token: str | None, upto: int) -> Waiting:
        since = 0
        if token:
            found = _TOKEN.fullmatch(token)
            if found is None:
                raise InvalidParam("That is no token of this endpoint")
            since = int(found[1])
        user_id = request.requester.user_id
        return await self._devices.messages(user_id, request.param("device_id"), since, upto)


def _page(waiting: Waiting, next_batch: int) -> JsonBytes:
    token = f',"next_batch":"d{next_batch}"' if next_batch else ""
    return JsonBytes(f'{{"events":[{",".join(waiting.messages)}]{token}}}'.encode())
