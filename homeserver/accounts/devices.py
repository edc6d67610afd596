# SPDX-License-Identifier: Apache-2.0
"""What users do with their devices: list, rename, delete. Client-server API, "Device management".

Owns the rules; keys and messages of a device hang on its row and go with it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from homeserver.accounts.requester import Requester
from homeserver.accounts.sessions import check_display_name
from homeserver.accounts.stages import PASSWORD
from homeserver.accounts.token_cache import TokenCache
from homeserver.accounts.uia import Operation, Uia
from homeserver.errors import NotFound
from storage.devices import Device, DeviceStore


class OwnDevices:
    """The devices of the requester."""

    def __init__(self, devices: DeviceStore, cache: TokenCache, uia: Uia) -> None:
        self._devices = devices
        self._cache = cache
        self._uia = uia

    async def list(self, user_id: str) -> Sequence[Device]:
        """A user's devices, oldest first."""
        return await self._devices.list(user_id)

    async def get(self, user_id: str, device_id: str) -> Device:
        """One device. Raises NotFound."""
        device = None if "\0" in device_id else await self._devices.get(user_id, device_id)
        if device is None:
            raise NotFound("No such device")
        return device

    async def rename(self, user_id: str, device_id: str, display_name: str | None) -> None:
        """Change a device's display name; None leaves it. Raises NotFound, InvalidParam."""
        if display_name is None:
            await self.get(user_id, device_id)
            return
        check_display_name(display_name)
        if "\0" in device_id or not await self._devices.rename(user_id, device_id, display_name):
            raise NotFound("No such device")

    async def delete(self, requester: Requester, device_ids: Sequence[str], body: Mapping[str, Any]) -> None:
        """Log devices out and delete them; those that do not exist are passed over.

        Raises UiaRequired while authentication is unfinished, which then serves for exactly these devices.
        """
        wanted = sorted({device_id for device_id in device_ids if "\0" not in device_id})
        # A digest, as the list may be long.
        digest = hashlib.sha256(orjson.dumps(wanted)).hexdigest()
        operation = Operation(
            name=f"DELETE devices {digest}",
            user_id=requester.user_id,
            flows=[(PASSWORD,)],
            params={},
        )
        await self._uia.require(operation, body)
        await self._devices.delete(requester.user_id, wanted)
        self._cache.forget(requester.user_id)
