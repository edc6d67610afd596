# SPDX-License-Identifier: Apache-2.0
"""Devices. Client-server API, "Device management"."""

from typing import Any

from homeserver.accounts.devices import OwnDevices
from homeserver.clientapi.login import AuthBody
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route
from storage.devices import Device


class RenameBody(Struct, frozen=True):
    """`PUT /devices/{deviceId}`."""

    display_name: str | None = None


class DeleteDevicesBody(Struct, frozen=True):
    """`POST /delete_devices`."""

    devices: list[str]
    auth: dict[str, Any] | None = None


class DeviceEndpoints:
    """`/devices`, `/devices/{deviceId}`, `/delete_devices`."""

    def __init__(self, devices: OwnDevices) -> None:
        self._devices = devices

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/devices", self.list, auth=Auth.GUEST_OK),
            Route("GET", "/devices/{device_id}", self.get, auth=Auth.GUEST_OK),
            Route("PUT", "/devices/{device_id}", self.rename, auth=Auth.GUEST_OK),
            Route("DELETE", "/devices/{device_id}", self.delete),
            Route("POST", "/delete_devices", self.delete_many),
        )

    async def list(self, request: MatrixRequest) -> Reply:
        """`GET /devices`."""
        devices = await self._devices.list(request.requester.user_id)
        return {"devices": [_shown(device) for device in devices]}

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /devices/{deviceId}`."""
        return _shown(await self._devices.get(request.requester.user_id, request.param("device_id")))

    async def rename(self, request: MatrixRequest) -> Reply:
        """`PUT /devices/{deviceId}`."""
        display_name = request.body(RenameBody).display_name
        await self._devices.rename(request.requester.user_id, request.param("device_id"), display_name)
        return {}

    async def delete(self, request: MatrixRequest) -> Reply:
        """`DELETE /devices/{deviceId}`."""
        body = request.body(AuthBody, empty_ok=True)
        await self._devices.delete(request.requester, [request.param("device_id")], body.auth)
        return {}

    async def delete_many(self, request: MatrixRequest) -> Reply:
        """`POST /delete_devices`."""
        body = request.body(DeleteDevicesBody)
        await self._devices.delete(request.requester, body.devices, body.auth)
        return {}


def _shown(device: Device) -> dict[str, object]:
    """A device as its owner sees it, without what is not known."""
    known = {
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_ts": device.last_seen_ts,
    }
    return {key: value for key, value in known.items() if value is not None}
