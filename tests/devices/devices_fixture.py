# SPDX-License-Identifier: Apache-2.0
"""The services of devices on a real database, as a process has them, and devices whose keys they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson
from msgspec.structs import asdict
from twisted.internet.task import deferLater

from homeserver.devices.claiming import ClaimAnswer
from homeserver.devices.querying import KeysAnswer
from homeserver.devices.remote import NoAnnouncing, NoRemoteDevices, NoRemoteKeys
from homeserver.devices.services import (
    DeviceServices,
    build_device_ground,
    build_device_services,
    build_stored_keys,
)
from homeserver.errors import UiaRequired
from homeserver.protocol.signing import SigningKey, sign_json
from homeserver.rooms.listening import readers_in_any
from homeserver.sync.device_sections import DeviceListsSection, KeyCountsSection, ToDeviceSection
from storage.database import Database
from storage.stream import StreamStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import Engine

START = 1_700_000_000_000


@dataclass(slots=True)
class FakeReauthentication:
    """Is content with `{"password": "right"}`."""

    asked: list[str] = field(default_factory=list)

    async def require(self, user_id: str, operation: str, auth: Mapping[str, Any] | None) -> None:
        self.asked.append(operation)
        if auth != {"password": "right"}:
            raise UiaRequired(flows=[], params={}, session=user_id)


@dataclass(frozen=True, slots=True)
class Process:
    """One process with devices."""

    engine: Engine
    devices: DeviceServices
    reauthentication: FakeReauthentication

    @classmethod
    async def open(cls, database: Database, **remote: Any) -> Process:
        engine = await Engine.open(database)
        stream, cache = engine.stream, engine.cache

        reauthentication = FakeReauthentication()
        ground = build_device_ground(
            origin=stream.origin,
            server_name="localhost",
            database=database,
            stream=stream,
            committer=engine.committer,
            cache=cache,
            user_rooms=engine.user_rooms,
            readers=readers_in_any(cache, engine.user_rooms, stream.listeners),
            stored_keys=build_stored_keys(database, "localhost"),
            announcing=remote.get("announcing", NoAnnouncing()),
        )
        keys = remote.get("keys", NoRemoteKeys())
        devices = build_device_services(
            ground,
            reactor=reactor,
            stream=stream,
            stream_store=StreamStore(database, "test"),
            reauthentication=reauthentication,
            now=lambda: START,
            remote_keys=keys(ground, engine.user_rooms) if callable(keys) else keys,
            remote_devices=remote.get("devices", NoRemoteDevices()),
        )
        await database.listen("devices", devices.news.heard)
        await database.listen("device_list_dues", devices.lists.heard)
        return cls(engine, devices, reauthentication)

    @property
    def position(self) -> int:
        return self.engine.stream.position

    @property
    def sections(self) -> tuple[ToDeviceSection, DeviceListsSection, KeyCountsSection]:
        devices = self.devices
        return (
            ToDeviceSection(devices.to_device),
            DeviceListsSection(devices.lists),
            KeyCountsSection(devices.counts),
        )

    async def changed(self, user_id: str, since: int) -> tuple[set[str], set[str]]:
        """Whose lists changed for a user since a position, and who left."""
        news = await self.devices.lists.changed(user_id, since, self.position)
        return set(news.changed), set(news.left)

    async def query(self, viewer: str, wanted: Mapping[str, Sequence[str]], timeout: float = 1) -> KeysAnswer:
        """What a user is told of keys."""
        return (await self.devices.query.query(viewer, wanted, timeout)).decoded()

    async def claim(self, wanted: Mapping[str, Mapping[str, str]], timeout: float = 1) -> ClaimAnswer:
        """What a claim gets, decoded."""
        return ClaimAnswer(
            **orjson.loads(orjson.dumps(asdict(await self.devices.claim.claim(wanted, timeout))))
        )

    async def reached(self, position: int) -> None:
        """Let the reactor turn until this process shows a position, and what else is committed by now: whoever wrote
        may itself not show that yet, for want of what another wrote before.
        """
        committed = await StreamStore(self.engine.database, "test").position()
        position = max(position, committed)
        while self.position < position:
            await deferLater(reactor, 0)

    async def moved_on(self, position: int) -> None:
        """Let the reactor turn until this process shows something beyond a position."""
        await self.reached(position + 1)

    async def log_in(self, user_id: str, device_id: str, name: str | None = None) -> Device:
        """A device of a user, who is made if need be."""
        database = self.engine.database
        await database.execute(
            "user",
            "INSERT INTO users (user_id, created_ts) VALUES (%s, 0) ON CONFLICT DO NOTHING",
            (user_id,),
        )
        await database.execute(
            "device",
            "INSERT INTO devices (user_id, device_id, display_name, created_ts) VALUES (%s, %s, %s, 0)",
            (user_id, device_id, name),
        )
        return Device(user_id, device_id)

    async def upload(self, device: Device, count: int = 0, **more: Any) -> dict[str, int]:
        """Upload a device's identity keys with that many one-time keys."""
        upload = {
            "device_keys": device.keys(),
            "one_time_keys": device.one_time_keys(count),
            "fallback_keys": {},
            **more,
        }
        return await self.devices.upload.upload(device.user_id, device.device_id, **upload)


def statements(database: Database) -> dict[str, int]:
    """How often each statement was sent so far."""
    return {name: timing.count for name, timing in database.metrics.statements.items() if timing.count}


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a client: makes keys, always the same."""

    user_id: str
    device_id: str

    @property
    def signing_key(self) -> SigningKey:
        return _key(self.device_id, self.user_id, self.device_id)

    def keys(self, **more: Any) -> dict[str, Any]:
        """Identity keys, signed."""
        keys = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                f"ed25519:{self.device_id}": self.signing_key.verify_key.to_base64(),
                f"curve25519:{self.device_id}": "c" * 43,
            },
            **more,
        }
        return sign_json(keys, self.user_id, self.signing_key)

    def one_time_keys(self, count: int, first: int = 0, **more: Any) -> dict[str, Any]:
        """Signed one-time keys."""
        return {
            f"signed_curve25519:{n:06}": sign_json({"key": f"key{n}", **more}, self.user_id, self.signing_key)
            for n in range(first, first + count)
        }


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's cross-signing keys: makes and uses them."""

    user_id: str
    generation: str = "1"

    def key(self, usage: str) -> SigningKey:
        """Named by its public key, as cross-signing keys are."""
        unnamed = _key("x", self.user_id, usage, self.generation)
        return SigningKey("ed25519:" + unnamed.verify_key.to_base64(), unnamed._key)

    def public(self, usage: str) -> str:
        return self.key(usage).verify_key.to_base64()

    def keys(self, *usages: str) -> dict[str, object]:
        """By usage, signed by the master key."""
        made: dict[str, object] = {}
        for usage in usages or ("master", "self_signing", "user_signing"):
            public = self.public(usage)
            value = {"user_id": self.user_id, "usage": [usage], "keys": {"ed25519:" + public: public}}
            signed = usage == "master"
            made[usage] = value if signed else sign_json(value, self.user_id, self.key("master"))
        return made

    def signs(self, value: Mapping[str, Any], usage: str) -> dict[str, Any]:
        """Somebody's key with this user's signature."""
        bare = {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}
        return sign_json(bare, self.user_id, self.key(usage))


def _key(name: str, *parts: str) -> SigningKey:
    return SigningKey.from_seed("ed25519:" + name, sha256("\0".join(parts).encode()).digest())
