# SPDX-License-Identifier: Apache-2.0
"""Signatures that users make on keys after their upload: on their own devices and master key, on others' master keys.

Owns which signatures are taken. Client-server API, "Cross-signing": a self-signing key signs the user's own devices,
devices sign the user's own master key, a user-signing key signs other users' master keys.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
from msgspec import Struct, field

from homeserver.devices.lists import DeviceLists
from homeserver.devices.news import DeviceNews, Moved
from homeserver.devices.remote import RemoteKeys
from homeserver.devices.writing import Committer
from homeserver.errors import BadJson, InvalidParam, InvalidSignature, MatrixError, NotFound, TooLarge
from homeserver.protocol.device_keys import KeyFormError, is_signed_by, same_but_signatures, signatures_by
from homeserver.protocol.signing import VerifyKey
from storage.cross_signing import CrossSigningStore, KeySignature
from storage.database import Database, Transaction
from storage.device_keys import DeviceKeyStore

MOST_SIGNATURES: Final = 500
"""Checked in one request: each costs a tenth of a millisecond."""
REMOTE_TIMEOUT: Final = 10.0

Signed = Mapping[str, Mapping[str, object]]
"""User → device id or public key → the signed object."""
Failures = dict[str, dict[str, dict[str, object]]]


class _Known(Struct):
    """The keys that the signatures of a request may be about or by."""

    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The signer's own, by id."""
    masters: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By user."""
    own: dict[str, VerifyKey] = field(default_factory=dict)
    """The signer's cross-signing keys, by usage."""


class Signatures:
    """Takes signatures."""

    def __init__(
        self,
        *,
        origin: str,
        database: Database,
        store: CrossSigningStore,
        device_keys: DeviceKeyStore,
        lists: DeviceLists,
        news: DeviceNews,
        committer: Committer,
        remote: RemoteKeys,
        is_local: Callable[[str], bool],
    ) -> None:
        self._origin = origin
        self._database = database
        self._store = store
        self._device_keys = device_keys
        self._lists = lists
        self._news = news
        self._committer = committer
        self._remote = remote
        self._is_local = is_local

    async def upload(self, user_id: str, signed: Signed) -> Failures:
        """Take the signatures that hold; returns the errors of the others, by user and key. Raises TooLarge,
        BadJson."""
        if sum(map(len, signed.values())) > MOST_SIGNATURES:
            raise TooLarge(f"At most {MOST_SIGNATURES} keys can be signed at once")
        known = await self._known(user_id, signed)
        failures: Failures = {}
        own: list[KeySignature] = []
        others: list[KeySignature] = []
        budget = _Budget(MOST_SIGNATURES)
        for target, objects in signed.items():
            for key_id, value in objects.items():
                try:
                    found = _signatures(known, user_id, (target, key_id), value, budget)
                except MatrixError as error:
                    failures.setdefault(target, {})[key_id] = error.as_dict()
                else:
                    (own if target == user_id else others).extend(found)
        if own:
            await self._keep_own(user_id, own, known.devices)
        if others:
            await self._keep_others(user_id, others)
        return failures

    async def _known(self, user_id: str, signed: Signed) -> _Known:
        known = _Known()
        for key in await self._store.keys([user_id, *signed]):
            value = orjson.loads(key.key)
            if key.usage == "master":
                known.masters[key.user_id] = value
            if key.user_id == user_id:
                known.own[key.usage] = VerifyKey.from_base64(key.public_key)
        if user_id in signed:
            for device in await self._device_keys.of_users([user_id]):
                known.devices[device.device_id] = orjson.loads(device.keys)
        unknown = [each for each in signed if each not in known.masters and not self._is_local(each)]
        if unknown:
            answer = await self._remote.query(user_id, dict.fromkeys(unknown, ()), REMOTE_TIMEOUT)
            known.masters.update({each: dict(key) for each, key in answer.master_keys.items()})
        return known

    async def _keep_own(
        self, user_id: str, signatures: Sequence[KeySignature], devices: Collection[str]
    ) -> None:
        """Everybody who tracks the user hears of it."""
        key_ids = sorted({each.key_id for each in signatures})

        async def work(txn: Transaction) -> bool:
            if not await self._store.sign_txn(txn, signatures):
                return False
            dues = {key_id if key_id in devices else "" for key_id in key_ids}
            await self._store.due_txn(txn, user_id, sorted(dues))
            return True

        if await self._database.transaction("key_signatures", work):
            await self._lists.settle((user_id,))

    async def _keep_others(self, user_id: str, signatures: Sequence[KeySignature]) -> None:
        """Only the signer's own devices hear of it."""
        rows = [
            {
                "origin": self._origin,
                "user_id": user_id,
                "target_id": each.user_id,
                "key_id": each.key_id,
                "signer_key_id": each.signer_key_id,
                "signature": each.signature,
            }
            for each in signatures
        ]

        def landed(before: int) -> Iterable[str]:
            return self._news.landed(
                [Moved("signed", before + n, user_id, each.user_id) for n, each in enumerate(signatures, 1)]
            )

        await self._committer.write("user_signatures", rows, landed=landed)


class _Budget:
    """How many signatures may still be checked."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooLarge(f"At most {MOST_SIGNATURES} signatures are checked at once")


def _signatures(
    known: _Known, user_id: str, named: tuple[str, str], value: object, budget: _Budget
) -> list[KeySignature]:
    """The signatures by the user on one key. Raises MatrixError if there is none or one does not hold."""
    target, key_id = named
    if type(value) is not dict:
        raise BadJson("A signed key is an object")
    subject, signers = _subject(known, user_id, target, key_id)
    if not same_but_signatures(value, subject):
        raise InvalidParam("The signed key is not the one that was uploaded")
    try:
        made = signatures_by(value, user_id)
    except KeyFormError as error:
        raise BadJson(str(error)) from error
    found = []
    for signer_key_id, signature in made.items():
        signer = signers(signer_key_id)
        if signer is None:
            continue
        budget.take()
        if not is_signed_by(value, user_id, signer_key_id, signer):
            raise InvalidSignature(f"The signature by {signer_key_id} does not verify")
        found.append(KeySignature(target, key_id, user_id, signer_key_id, signature))
    if not found:
        raise InvalidSignature("There is no signature by a key that signs keys of this kind")
    return found


_Signers = Callable[[str], VerifyKey | None]


def _subject(known: _Known, user_id: str, target: str, key_id: str) -> tuple[dict[str, Any], _Signers]:
    """The key as it is known here, and the keys of the user that may sign it. Raises NotFound."""
    master = known.masters.get(target)
    if master is not None and key_id in master["keys"].values():
        if target == user_id:
            return master, lambda signer: _device_key(known, signer)
        return master, lambda signer: _cross_signing_key(known, "user_signing", signer)
    if target == user_id and key_id in known.devices:
        return known.devices[key_id], lambda signer: _cross_signing_key(known, "self_signing", signer)
    raise NotFound("There is no such key")


def _cross_signing_key(known: _Known, usage: str, signer_key_id: str) -> VerifyKey | None:
    key = known.own.get(usage)
    return key if key is not None and signer_key_id == "ed25519:" + key.to_base64() else None


def _device_key(known: _Known, signer_key_id: str) -> VerifyKey | None:
    algorithm, _, device_id = signer_key_id.partition(":")
    device = known.devices.get(device_id)
    if algorithm != "ed25519" or device is None:
        return None
    return VerifyKey.from_base64(device["keys"][signer_key_id])
