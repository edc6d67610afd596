# SPDX-License-Identifier: Apache-2.0
"""The routes of end-to-end encryption, put together for the composition root."""

from __future__ import annotations

from collections.abc import Callable

from homeserver.clientapi.cross_signing import UNSTABLE_FLAGS, CrossSigningEndpoints
from homeserver.clientapi.dehydrated_devices import DehydratedDeviceEndpoints
from homeserver.clientapi.keys import KeyEndpoints
from homeserver.clientapi.room_keys import RoomKeyEndpoints
from homeserver.clientapi.to_device import ToDeviceEndpoints
from homeserver.devices.services import DeviceServices
from homeserver.web.routing import Route

__all__ = ["UNSTABLE_FLAGS", "encryption_routes"]


def encryption_routes(devices: DeviceServices, position: Callable[[], int]) -> tuple[Route, ...]:
    """All of them. `position` tells how far the stream may be shown."""
    return (
        *KeyEndpoints(
            upload=devices.upload,
            query=devices.query,
            claim=devices.claim,
            lists=devices.lists,
            position=position,
        ).routes(),
        *CrossSigningEndpoints(devices.cross_signing, devices.signatures).routes(),
        *RoomKeyEndpoints(devices.backups).routes(),
        *ToDeviceEndpoints(devices.to_device).routes(),
        *DehydratedDeviceEndpoints(devices.dehydrated, position).routes(),
    )
