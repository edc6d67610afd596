# SPDX-License-Identifier: Apache-2.0
"""What users do with their devices: list, rename, delete. Client-server API, "Device management".

Owns the rules; keys and messages of a device hang on its row and go with it.
"""

import hashlib
from collections.abc import Sequence

import orjson

from homeserver.accounts.actor import Actor
from homeserver.accounts.sessions import check_display_name
from homeserver.accounts.stages import PASSWORD
from homeserver.accounts.token_cache import TokenCache
from homeserver.accounts.uia import Auth, Operation, Uia
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
        device = await self._devices.get(user_id, device_id)
        if device is None:
            raise NotFound("No such device")
        return device

    async def rename(self, user_id: str, device_id: str, display_name: str | None) -> None:
        """Change a device's display name; None leaves it. Raises NotFound, InvalidParam."""
        if display_name is None:
            await self.get(user_id, device_id)
            return
        check_display_name(display_name)
        if not await self._devices.rename(user_id, device_id, display_name):
            raise NotFound("No such device")

    async def delete(self, actor: Actor, device_ids: Sequence[str], auth: Auth) -> None:
        """Log devices out and delete them; those that do not exist are passed over.

        Raises UiaRequired while authentication is unfinished, which then serves for exactly these devices.
        """
        wanted = sorted(set(device_ids))
        # A digest, as the list may be long.
        digest = hashlib.sha256(orjson.dumps(wanted)).hexdigest()
        operation = Operation(
            name=f"DELETE devices {digest}",
            user_id=actor.user_id,
            flows=[(PASSWORD,)],
            params={},
        )
        await self._uia.require(operation, auth)
        await self._devices.delete(actor.user_id, wanted)
        await self._cache.revoke(actor.user_id)
