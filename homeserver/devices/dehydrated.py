# SPDX-License-Identifier: Apache-2.0
"""Dehydrated devices (MSC3814): a device of a user that nobody is logged in with, so that room keys sent while the user
is logged out everywhere are not lost.

Owns that a user has one at most, that it comes and goes with its keys at once, and reading its messages. Reading
deletes nothing: who opens the device may fail in the middle, and puts another in its place when done. It goes with the
identity that signed it (migration 0016), not with the last log-out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from msgspec import Struct

from homeserver.devices.counts import KeyCounts
from homeserver.devices.lists import DeviceLists
from homeserver.devices.messages import ToDevice, Waiting
from homeserver.devices.uploading import KeyUpload
from homeserver.errors import BadJson, Forbidden, InvalidParam, NotFound, TooLarge
from storage.database import Database, Transaction
from storage.dehydrated_devices import DehydratedDevice, DehydratedDeviceStore

MAX_DATA_BYTES: Final = 262_144
MAX_DEVICE_ID: Final = 512


class Dehydration(Struct, frozen=True, kw_only=True):
    """A device to be kept, with the keys it is sent messages by."""

    device_id: str
    device_data: Mapping[str, Any]
    display_name: str | None
    device_keys: Mapping[str, Any]
    one_time_keys: Mapping[str, Any]
    fallback_keys: Mapping[str, Any]


class DehydratedDevices:
    """Keeps them."""

    def __init__(
        self,
        *,
        database: Database,
        store: DehydratedDeviceStore,
        upload: KeyUpload,
        lists: DeviceLists,
        counts: KeyCounts,
        to_device: ToDevice,
        now: Callable[[], int],
    ) -> None:
        self._database = database
        self._store = store
        self._upload = upload
        self._lists = lists
        self._counts = counts
        self._to_device = to_device
        self._now = now

    async def put(self, user_id: str, wanted: Dehydration) -> None:
        """Keep the device in place of the one there is; one that is there already, unless it changed, stays.

        Raises InvalidParam for the name of another device, BadJson and TooLarge for data, and as KeyUpload does.
        """
        device = DehydratedDevice(wanted.device_id, _encoded(wanted))
        keys = await self._upload.checked(
            user_id,
            wanted.device_id,
            device_keys=wanted.device_keys,
            one_time_keys=wanted.one_time_keys,
            fallback_keys=wanted.fallback_keys,
        )

        async def work(txn: Transaction) -> None:
            if await self._store.lock_txn(txn, user_id) != device:
                await self._store.delete_txn(txn, user_id)
                if not await self._store.add_txn(txn, user_id, device, wanted.display_name, self._now()):
                    raise InvalidParam("Another of your devices is called like that")
            await self._upload.put_txn(txn, user_id, wanted.device_id, keys)

        await self._database.transaction("dehydrated_put", work)
        await self._lists.settle((user_id,))
        await self._counts.moved([(user_id, wanted.device_id)])

    async def get(self, user_id: str) -> DehydratedDevice:
        """The user's. Raises NotFound."""
        device = await self._store.get(user_id)
        if device is None:
            raise NotFound("You have no dehydrated device")
        return device

    async def delete(self, user_id: str) -> str:
        """Delete the user's; its id. Raises NotFound."""

        async def work(txn: Transaction) -> str | None:
            await self._store.lock_txn(txn, user_id)
            return await self._store.delete_txn(txn, user_id)

        device_id = await self._database.transaction("dehydrated_delete", work)
        if device_id is None:
            raise NotFound("You have no dehydrated device")
        await self._lists.settle((user_id,))
        return device_id

    async def messages(self, user_id: str, device_id: str, since: int, upto: int) -> Waiting:
        """The messages to it in since < position ≤ upto, a page of them. Raises NotFound, Forbidden for another's."""
        if (await self.get(user_id)).device_id != device_id:
            raise Forbidden("That is not your dehydrated device")
        return await self._to_device.waiting(user_id, device_id, since, upto)


def _encoded(wanted: Dehydration) -> str:
    if not 0 < len(wanted.device_id) <= MAX_DEVICE_ID or "\0" in wanted.device_id:
        raise InvalidParam("That cannot be the id of a device")
    if type(wanted.device_data.get("algorithm")) is not str:
        raise BadJson("device_data must name its algorithm")
    data = orjson.dumps(wanted.device_data)
    if len(data) > MAX_DATA_BYTES:
        raise TooLarge(f"device_data is at most {MAX_DATA_BYTES} bytes")
    return data.decode()
