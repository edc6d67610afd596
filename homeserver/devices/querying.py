# SPDX-License-Identifier: Apache-2.0
"""Whose devices have which keys: for our users, and for other servers about our users.

Owns who sees which signatures: those by the keys' owner, and those the viewer made ("Key and signature security").
Keys are read for a whole request at once. Other servers' users are answered from what is kept of them, else asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import orjson
from msgspec import Struct, field
from msgspec.structs import asdict
from orjson import Fragment

from homeserver.devices.remote import JsonObject, RemoteKeys
from homeserver.errors import TooLarge
from storage.cross_signing import CrossSigningStore, KeySignature
from storage.device_lists import DeviceListStore
from storage.shown_keys import LaterSignature, ShownKeys, ShownKeyStore

MOST_USERS: Final = 10_000
"""In one request."""
LONGEST_TIMEOUT: Final = 60.0
_USAGES: Final = ("master", "self_signing", "user_signing")

Wanted = Mapping[str, Sequence[str]]
"""User → device ids; none: all of them."""


class KeysAnswer(Struct):
    """The sections of an answer to `/keys/query`. Any value may be an `orjson.Fragment` of what is said here."""

    device_keys: dict[str, Any] = field(default_factory=dict)
    """User → device → keys with `unsigned`."""
    master_keys: dict[str, Any] = field(default_factory=dict)
    self_signing_keys: dict[str, Any] = field(default_factory=dict)
    user_signing_keys: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, JsonObject] = field(default_factory=dict)

    def decoded(self) -> KeysAnswer:
        """The same without fragments, for who looks into it."""
        return KeysAnswer(**orjson.loads(orjson.dumps(asdict(self))))


class UserDevices(Struct, frozen=True):
    """All devices of one of our users with keys, as another server is told."""

    stream_id: int
    devices: Sequence[JsonObject]
    master_key: JsonObject | None
    self_signing_key: JsonObject | None


class StoredKeys:
    """The keys that are here: of our users, and kept ones of others. Serves other servers."""

    def __init__(
        self, *, shown: ShownKeyStore, lists: DeviceListStore, is_local: Callable[[str], bool]
    ) -> None:
        self._shown = shown
        self._lists = lists
        self._is_local = is_local

    async def query_for_server(self, wanted: Wanted) -> KeysAnswer:
        """For another server, about our users only, decoded. Raises TooLarge."""
        check_number(wanted)
        local = {user_id: ids for user_id, ids in wanted.items() if self._is_local(user_id)}
        return (await self.read(local, None)).decoded()

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

    async def read(self, wanted: Wanted, viewer: str | None) -> KeysAnswer:
        """What is here of our users and of others that are kept, as `viewer` sees it (None: another server)."""
        answer = KeysAnswer(device_keys={user_id: {} for user_id in wanted})
        for keys in await self._shown.of(wanted, viewer) if wanted else ():
            _show(keys, answer)
        return answer


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
        check_number(wanted)
        others = [each for each in wanted if not self._is_local(each)]
        away = set(others) - await self._remote.kept(others) if others else set()
        answer = await self._stored.read(
            {each: ids for each, ids in wanted.items() if each not in away} if away else wanted, user_id
        )
        missing = {each: wanted[each] for each in others if each in away}
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


def check_number(wanted: Wanted) -> None:
    """Raise TooLarge for more users than are answered at once."""
    if len(wanted) > MOST_USERS:
        raise TooLarge(f"Keys of at most {MOST_USERS} users can be queried at once")


def _show(keys: ShownKeys, answer: KeysAnswer) -> None:
    """Put the keys of a user into an answer."""
    user_id, devices, *cross_signing, unfinished = keys
    members = [] if devices is None else [devices]
    sections = (answer.master_keys, answer.self_signing_keys, answer.user_signing_keys)
    for section, text in zip(sections, cross_signing, strict=True):
        if text is not None:
            section[user_id] = Fragment(text)
    for key in unfinished:
        value = signed(orjson.loads(key.key), key.signatures)
        if key.kind == "device":
            name = {} if key.display_name is None else {"device_display_name": key.display_name}
            member = orjson.dumps({key.device_id: {**value, "unsigned": name}})
            members.append(member[1:-1].decode())
        else:
            sections[_USAGES.index(key.kind)][user_id] = value
    if members:
        answer.device_keys[user_id] = Fragment("{" + ",".join(members) + "}")


def signed(value: dict[str, Any], signatures: Collection[LaterSignature | KeySignature]) -> dict[str, Any]:
    """A key with signatures added; what it had stays."""
    if signatures:
        merged = {user_id: dict(by_key) for user_id, by_key in value.get("signatures", {}).items()}
        for each in signatures:
            merged.setdefault(each.signer_id, {})[each.signer_key_id] = each.signature
        value["signatures"] = merged
    return value
