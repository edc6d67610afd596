# SPDX-License-Identifier: Apache-2.0
"""Uploading a device's keys: identity keys, one-time keys, fallback keys. Client-server API, "Key algorithms".

Owns what is taken: everything is checked for form first, as it goes to other servers as it is, and is bounded per
device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from homeserver.devices.counts import KeyCounts
from homeserver.devices.lists import DeviceLists
from homeserver.errors import BadJson, Forbidden, InvalidParam, InvalidSignature, TooLarge, Unknown
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.device_keys import (
    KeyFormError,
    check_own_signature,
    checked_device_keys,
    checked_one_time_key,
    split_key_name,
)
from homeserver.protocol.errors import SignatureError
from storage.cross_signing import CrossSigningStore
from storage.database import Database, Transaction
from storage.device_keys import DeviceKeyStore
from storage.one_time_keys import OneTimeKey, OneTimeKeyStore

MOST_ONE_TIME_KEYS: Final = 1_000
"""Unclaimed, of all algorithms, per device: clients keep up to a hundred."""
MOST_CLAIMED_KEPT: Final = 1_000
MOST_FALLBACK_ALGORITHMS: Final = 10


class CheckedKeys(Struct, frozen=True):
    """An upload whose form was found to be right."""

    identity: str | None
    """Canonical JSON."""
    one_time: list[OneTimeKey]
    fallback: list[OneTimeKey]


class KeyUpload:
    """Takes keys from devices."""

    def __init__(
        self,
        *,
        database: Database,
        device_keys: DeviceKeyStore,
        one_time_keys: OneTimeKeyStore,
        cross_signing: CrossSigningStore,
        lists: DeviceLists,
        counts: KeyCounts,
    ) -> None:
        self._database = database
        self._device_keys = device_keys
        self._one_time_keys = one_time_keys
        self._cross_signing = cross_signing
        self._lists = lists
        self._counts = counts

    async def upload(
        self,
        user_id: str,
        device_id: str,
        *,
        device_keys: Mapping[str, Any] | None,
        one_time_keys: Mapping[str, Any],
        fallback_keys: Mapping[str, Any],
    ) -> dict[str, int]:
        """Take the keys, all or none; returns how many one-time keys there are by algorithm.

        Raises BadJson for what has not the form of keys, InvalidSignature, TooLarge, InvalidParam for a one-time key
        whose id another key has, Forbidden for a device that has a cross-signing key's name.
        """
        keys = await self.checked(
            user_id,
            device_id,
            device_keys=device_keys,
            one_time_keys=one_time_keys,
            fallback_keys=fallback_keys,
        )

        async def work(txn: Transaction) -> bool:
            return await self.put_txn(txn, user_id, device_id, keys)

        if keys.identity is not None or keys.one_time or keys.fallback:
            if await self._database.transaction("keys_upload", work):
                await self._lists.settle((user_id,))
            await self._counts.moved([(user_id, device_id)])
        return (await self._counts.of(user_id, device_id)).one_time

    async def checked(
        self,
        user_id: str,
        device_id: str,
        *,
        device_keys: Mapping[str, Any] | None,
        one_time_keys: Mapping[str, Any],
        fallback_keys: Mapping[str, Any],
    ) -> CheckedKeys:
        """What `put_txn` takes of a device that may not exist yet. Raises as `upload`."""
        identity = None if device_keys is None else _identity(device_keys, user_id, device_id)
        one_time, fallback = _keys(one_time_keys), _keys(fallback_keys)
        if len(one_time) > MOST_ONE_TIME_KEYS:
            raise TooLarge(f"A device has at most {MOST_ONE_TIME_KEYS} one-time keys")
        if len({key.algorithm for key in fallback}) < len(fallback):
            raise InvalidParam("There can only be one fallback key per algorithm")
        if identity is not None:
            await self._check_name(user_id, device_id)
        return CheckedKeys(identity, one_time, fallback)

    async def put_txn(self, txn: Transaction, user_id: str, device_id: str, keys: CheckedKeys) -> bool:
        """Take them within a transaction; whether the identity keys changed, which is then to be settled."""
        if not await self._device_keys.lock_device_txn(txn, user_id, device_id):
            raise Unknown("This device was deleted")
        if keys.one_time:
            await self._add_txn(txn, user_id, device_id, keys.one_time)
        if keys.fallback:
            await self._put_fallback_txn(txn, user_id, device_id, keys.fallback)
        if keys.identity is None:
            return False
        return await self._device_keys.put_txn(txn, user_id, device_id, keys.identity)

    async def _add_txn(self, txn: Transaction, user_id: str, device_id: str, keys: list[OneTimeKey]) -> None:
        known = {
            (key.algorithm, key.key_id): key.key
            for key in await self._one_time_keys.known_txn(txn, user_id, device_id, keys)
        }
        for key in keys:
            # A claimed one cannot be compared; it is not given out again.
            there = known.get((key.algorithm, key.key_id))
            if there is not None and there != key.key:
                raise InvalidParam(f"Another one-time key {key.algorithm}:{key.key_id} was uploaded before")
        new = [key for key in keys if (key.algorithm, key.key_id) not in known]
        if not new:
            return
        unclaimed = await self._one_time_keys.unclaimed_txn(txn, user_id, device_id)
        if unclaimed + len(new) > MOST_ONE_TIME_KEYS:
            raise TooLarge(f"A device has at most {MOST_ONE_TIME_KEYS} one-time keys")
        await self._one_time_keys.add_txn(txn, user_id, device_id, new, keep_claimed=MOST_CLAIMED_KEPT)

    async def _put_fallback_txn(
        self, txn: Transaction, user_id: str, device_id: str, keys: list[OneTimeKey]
    ) -> None:
        algorithms = [key.algorithm for key in keys]
        total = await self._one_time_keys.fallback_algorithms_txn(txn, user_id, device_id, algorithms)
        if total > MOST_FALLBACK_ALGORITHMS:
            raise TooLarge(f"A device has fallback keys of at most {MOST_FALLBACK_ALGORITHMS} algorithms")
        await self._one_time_keys.put_fallback_txn(txn, user_id, device_id, keys)

    async def _check_name(self, user_id: str, device_id: str) -> None:
        """A signature names its key by this alone, so no device may be called like a cross-signing key."""
        keys = await self._cross_signing.keys((user_id,))
        if any(key.public_key == device_id for key in keys):
            raise Forbidden("The device's id is that of one of your cross-signing keys")


def _identity(device_keys: Mapping[str, Any], user_id: str, device_id: str) -> str:
    try:
        keys = checked_device_keys(device_keys, user_id, device_id)
        check_own_signature(keys)
    except KeyFormError as error:
        raise BadJson(str(error)) from error
    except SignatureError as error:
        raise InvalidSignature("The device keys are not signed by the device") from error
    return encode_canonical(keys).decode()


def _keys(keys: Mapping[str, Any]) -> list[OneTimeKey]:
    try:
        return [
            OneTimeKey(*split_key_name(name), checked_one_time_key(name, key).decode())
            for name, key in keys.items()
        ]
    except KeyFormError as error:
        raise BadJson(str(error)) from error
