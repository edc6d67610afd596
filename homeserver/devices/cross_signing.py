# SPDX-License-Identifier: Apache-2.0
"""Uploading cross-signing keys. Client-server API, "Cross-signing"; when to ask for the password by MSC3967.

Owns which keys are taken and when authentication is asked for. Signatures made later are `signatures`'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.devices.lists import DeviceLists
from homeserver.errors import BadJson, Forbidden, InvalidSignature, MissingParam
from homeserver.needs import Protocol
from homeserver.protocol.device_keys import (
    USAGES,
    CrossSigningKey,
    KeyFormError,
    checked_cross_signing_key,
    is_signed_by,
    same_but_signatures,
)
from storage.cross_signing import CrossSigningStore, StoredCrossSigningKey
from storage.database import Database, Transaction
from storage.device_keys import DeviceKeyStore

_TRIES: Final = 3


class Reauthentication(Protocol):
    """Asks users to show again who they are."""

    async def require(self, user_id: str, operation: str, auth: Mapping[str, Any] | None) -> None:
        """Return if `auth` completes user-interactive authentication for the operation. Raises UiaRequired."""
        ...


class CrossSigning:
    """Takes cross-signing keys."""

    def __init__(
        self,
        *,
        database: Database,
        store: CrossSigningStore,
        device_keys: DeviceKeyStore,
        lists: DeviceLists,
        reauthentication: Reauthentication,
    ) -> None:
        self._database = database
        self._store = store
        self._device_keys = device_keys
        self._lists = lists
        self._reauthentication = reauthentication

    async def upload(
        self, user_id: str, uploaded: Mapping[str, object], auth: Mapping[str, Any] | None
    ) -> None:
        """Take keys, by usage. The first ones, and those that are there already, need no authentication.

        Raises UiaRequired; BadJson, MissingParam, InvalidSignature for what cannot be such keys; Forbidden for a key
        that is called like one of the user's devices.
        """
        keys = _read(user_id, uploaded)
        authorised = False
        for _ in range(_TRIES):
            present = {key.usage: key for key in await self._store.keys((user_id,))}
            _check_signed_by_master(user_id, keys, present)
            changed = {usage: key for usage, key in keys.items() if not _is_there(key, present)}
            if not changed:
                return
            if await self._device_keys.existing(user_id, [key.public_key for key in changed.values()]):
                raise Forbidden("Key ID in use")
            if "master" in present and not authorised:
                await self._reauthentication.require(user_id, _operation(keys), auth)
                authorised = True
            if await self._put(user_id, changed, present):
                await self._lists.settle((user_id,))
                return
        raise Forbidden("The keys were changed by somebody else meanwhile")

    async def _put(
        self,
        user_id: str,
        changed: Mapping[str, CrossSigningKey],
        present: Mapping[str, StoredCrossSigningKey],
    ) -> bool:
        """False, and nothing is done, if the keys are no more what they were when it was decided."""

        async def work(txn: Transaction) -> bool:
            await self._store.lock_user_txn(txn, user_id)
            if {key.usage: key for key in await self._store.keys_txn(txn, user_id)} != present:
                return False
            rows = [
                StoredCrossSigningKey(user_id, usage, key.public_key, orjson.dumps(key.value).decode())
                for usage, key in changed.items()
            ]
            await self._store.put_txn(txn, user_id, rows)
            gone = [present[usage].public_key for usage in changed if usage in present]
            if "master" in changed:  # what the old one signed is worth nothing any more
                await self._store.remove_others_txn(txn, user_id, list(changed))
                gone = [key.public_key for key in present.values()]
            if gone:
                await self._store.remove_signatures_txn(txn, user_id, gone)
            await self._store.due_txn(txn, user_id, [""])
            return True

        return await self._database.transaction("cross_signing_upload", work)


def _read(user_id: str, uploaded: Mapping[str, object]) -> dict[str, CrossSigningKey]:
    try:
        keys = {
            usage: checked_cross_signing_key(uploaded[usage], user_id, usage)
            for usage in USAGES
            if uploaded.get(usage) is not None
        }
    except KeyFormError as error:
        raise BadJson(str(error)) from error
    if len({key.public_key for key in keys.values()}) < len(keys):
        raise BadJson("Cross-signing keys of different usages must differ")
    return keys


def _check_signed_by_master(
    user_id: str, keys: Mapping[str, CrossSigningKey], present: Mapping[str, StoredCrossSigningKey]
) -> None:
    if "master" in keys:
        master = keys["master"]
    elif "master" in present:
        master = checked_cross_signing_key(orjson.loads(present["master"].key), user_id, "master")
    else:
        raise MissingParam("No master signing key is available")
    for usage, key in keys.items():
        if usage != "master" and not is_signed_by(key.value, user_id, master.key_id, master.verify_key):
            raise InvalidSignature(f"The {usage} key is not signed by the master key")


def _is_there(key: CrossSigningKey, present: Mapping[str, StoredCrossSigningKey]) -> bool:
    there = present.get(key.usage)
    return there is not None and same_but_signatures(key.value, orjson.loads(there.key))


def _operation(keys: Mapping[str, CrossSigningKey]) -> str:
    """Names the upload down to its keys, so that authentication for one set serves no other."""
    text = "\0".join(f"{usage}\0{key.public_key}" for usage, key in sorted(keys.items()))
    return f"POST keys/device_signing/upload {hashlib.sha256(text.encode()).hexdigest()}"
