# SPDX-License-Identifier: Apache-2.0
"""Whose devices have which keys: for our users, and for other servers about our users.

Owns who sees which signatures: those by the keys' owner, and those the viewer made ("Key and signature security").
Keys are read for a whole request at once. Other servers' users are answered from what is kept of them, else asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from twisted.internet.defer import Deferred, gatherResults

from homeserver.devices.remote import JsonObject, RemoteKeys
from homeserver.errors import TooLarge
from storage.cross_signing import CrossSigningStore, KeySignature, StoredCrossSigningKey
from storage.device_keys import DeviceKeys, DeviceKeyStore
from storage.device_lists import DeviceListStore

MOST_USERS: Final = 10_000
"""In one request."""
LONGEST_TIMEOUT: Final = 60.0

Wanted = Mapping[str, Sequence[str]]
"""User → device ids; none: all of them."""


@dataclass(slots=True)
class KeysAnswer:
    """The sections of an answer to `/keys/query`."""

    device_keys: dict[str, dict[str, JsonObject]] = field(default_factory=dict)
    master_keys: dict[str, JsonObject] = field(default_factory=dict)
    self_signing_keys: dict[str, JsonObject] = field(default_factory=dict)
    user_signing_keys: dict[str, JsonObject] = field(default_factory=dict)
    failures: dict[str, JsonObject] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UserDevices:
    """All devices of one of our users with keys, as another server is told."""

    stream_id: int
    devices: Sequence[JsonObject]
    master_key: JsonObject | None
    self_signing_key: JsonObject | None


class StoredKeys:
    """The keys that are here: of our users, and kept ones of others. Serves other servers."""

    def __init__(
        self,
        *,
        device_keys: DeviceKeyStore,
        cross_signing: CrossSigningStore,
        lists: DeviceListStore,
        is_local: Callable[[str], bool],
    ) -> None:
        self._device_keys = device_keys
        self._cross_signing = cross_signing
        self._lists = lists
        self._is_local = is_local

    async def query_for_server(self, wanted: Wanted) -> KeysAnswer:
        """For another server, about our users only. Raises TooLarge."""
        if len(wanted) > MOST_USERS:
            raise TooLarge(f"Keys of at most {MOST_USERS} users can be queried at once")
        return await self.read(wanted, [each for each in wanted if self._is_local(each)], (), None)

    async def devices_for_server(self, user_id: str) -> UserDevices:
        """All devices of one of our users. The stream id is no newer than the devices."""
        stream_id = await self._lists.stream_id(user_id)
        answer = await self.query_for_server({user_id: ()})
        devices: list[JsonObject] = []
        for device_id, keys in answer.device_keys.get(user_id, {}).items():
            shown = {name: part for name, part in keys.items() if name != "unsigned"}
            device: dict[str, Any] = {"device_id": device_id, "keys": shown}
            name = keys.get("unsigned", {}).get("device_display_name")
            devices.append(device if name is None else {**device, "device_display_name": name})
        master, own = answer.master_keys.get(user_id), answer.self_signing_keys.get(user_id)
        return UserDevices(stream_id, devices, master, own)

    async def read(
        self, wanted: Wanted, local: Sequence[str], kept: Sequence[str], viewer: str | None
    ) -> KeysAnswer:
        """What is here of our users and of others that are kept, as `viewer` sees it (None: another server)."""
        answer = KeysAnswer(device_keys={user_id: {} for user_id in (*local, *kept)})
        users = [*local, *kept]
        if not users:
            return answer
        devices, keys, signatures = await self._rows(local, kept, users, viewer)
        by_key: dict[tuple[str, str], list[KeySignature]] = {}
        for signature in signatures:
            by_key.setdefault((signature.user_id, signature.key_id), []).append(signature)
        for device in devices:
            ids = wanted[device.user_id]
            if not ids or device.device_id in ids:
                shown = device_as_shown(device, by_key.get((device.user_id, device.device_id), ()))
                answer.device_keys[device.user_id][device.device_id] = shown
        sections = {
            "master": answer.master_keys,
            "self_signing": answer.self_signing_keys,
            "user_signing": answer.user_signing_keys,
        }
        for key in keys:
            if key.usage != "user_signing" or key.user_id == viewer:
                value = orjson.loads(key.key)
                sections[key.usage][key.user_id] = signed(
                    value, by_key.get((key.user_id, key.public_key), ())
                )
        return answer

    async def _rows(
        self, local: Sequence[str], kept: Sequence[str], users: Sequence[str], viewer: str | None
    ) -> tuple[list[DeviceKeys], list[StoredCrossSigningKey], list[KeySignature]]:
        asked: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self._device_keys.of_users(local, kept)),
            Deferred.fromCoroutine(self._cross_signing.keys(users)),
            Deferred.fromCoroutine(self._cross_signing.signatures(users, viewer)),
        ]
        devices, keys, signatures = await gatherResults(asked, consumeErrors=True)
        return devices, keys, signatures


class KeyQuery:
    """Answers our users' queries."""

    def __init__(
        self,
        *,
        stored: StoredKeys,
        cross_signing: CrossSigningStore,
        remote: RemoteKeys,
        is_local: Callable[[str], bool],
    ) -> None:
        self._stored = stored
        self._cross_signing = cross_signing
        self._remote = remote
        self._is_local = is_local

    async def query(self, user_id: str, wanted: Wanted, timeout: float) -> KeysAnswer:
        """For one of our users; other servers get `timeout` seconds. Raises TooLarge."""
        if len(wanted) > MOST_USERS:
            raise TooLarge(f"Keys of at most {MOST_USERS} users can be queried at once")
        local = [each for each in wanted if self._is_local(each)]
        others = [each for each in wanted if not self._is_local(each)]
        kept = sorted(await self._remote.kept(others)) if others else []
        answer = await self._stored.read(wanted, local, kept, user_id)
        missing = {each: wanted[each] for each in set(others).difference(kept)}
        if missing:
            remote = await self._remote.query(user_id, missing, min(timeout, LONGEST_TIMEOUT))
            await self._add_signatures(remote.master_keys, user_id)
            answer.device_keys.update(remote.device_keys)
            answer.master_keys.update(remote.master_keys)
            answer.self_signing_keys.update(remote.self_signing_keys)
            answer.failures.update(remote.failures)
        return answer

    async def _add_signatures(self, master_keys: dict[str, JsonObject], viewer: str) -> None:
        """Add what the viewer signed to keys that came from elsewhere."""
        if not master_keys:
            return
        for signature in await self._cross_signing.signatures(list(master_keys), viewer):
            key = master_keys[signature.user_id]
            if signature.key_id in key["keys"].values():
                master_keys[signature.user_id] = signed(dict(key), (signature,))


def device_as_shown(device: DeviceKeys, signatures: Collection[KeySignature]) -> dict[str, Any]:
    """A device's keys with later signatures, and its name in `unsigned`."""
    keys = signed(orjson.loads(device.keys), signatures)
    keys["unsigned"] = {} if device.display_name is None else {"device_display_name": device.display_name}
    return keys


def signed(value: dict[str, Any], signatures: Collection[KeySignature]) -> dict[str, Any]:
    """A key with signatures added; what it had stays."""
    if signatures:
        merged = {user_id: dict(by_key) for user_id, by_key in value.get("signatures", {}).items()}
        for each in signatures:
            merged.setdefault(each.signer_id, {})[each.signer_key_id] = each.signature
        value["signatures"] = merged
    return value
