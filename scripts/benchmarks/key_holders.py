# SPDX-License-Identifier: Apache-2.0
"""Users with devices and keys, as clients with encryption have them, made through a server's API.

Owns what such clients upload: identity keys, one-time keys, cross-signing keys, and a signature of these on each
device. The world keeps who was made.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nacl.signing import SigningKey as Ed25519SigningKey

from homeserver.protocol.signing import SigningKey, sign_json
from homeserver.protocol.unpadded_base64 import encode_base64
from scripts.benchmarks.client import Client, Json

UPLOAD = "/_matrix/client/v3/keys/upload"
ALGORITHMS = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]
ONE_TIME_ALGORITHM = "signed_curve25519"


@dataclass(frozen=True, slots=True)
class KeyDevice:
    """One device of a user and what it signs with."""

    client: Client
    key: SigningKey

    @classmethod
    def of(cls, client: Client) -> KeyDevice:
        """The device that a client is logged in with."""
        return cls(client, SigningKey.from_seed(f"ed25519:{client.device_id}", secrets.token_bytes(32)))

    def identity_keys(self) -> Json:
        """What the device publishes about itself, signed by it."""
        user_id, device_id = self.client.user_id, self.client.device_id
        keys = {
            f"ed25519:{device_id}": self.key.verify_key.to_base64(),
            f"curve25519:{device_id}": _random_key(),
        }
        value: Json = {
            "user_id": user_id,
            "device_id": device_id,
            "algorithms": ALGORITHMS,
            "keys": keys,
        }
        return sign_json(value, user_id, self.key)

    async def add_one_time_keys(self, count: int) -> None:
        """Upload so many more, in requests of fifty as clients make them."""
        for start in range(0, count, 50):
            keys = {
                f"{ONE_TIME_ALGORITHM}:{secrets.token_hex(6)}": sign_json(
                    {"key": _random_key()}, self.client.user_id, self.key
                )
                for _ in range(start, min(start + 50, count))
            }
            await self.client.call("POST", UPLOAD, {"one_time_keys": keys})


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A user whose devices are all signed by the user's own keys."""

    user: Client
    devices: Sequence[KeyDevice]

    @classmethod
    async def equip(cls, *clients: Client) -> KeyHolder:
        """Upload all keys of a user with those devices, who had none."""
        devices = [KeyDevice.of(client) for client in clients]
        identities = {device.client.device_id: device.identity_keys() for device in devices}
        for device in devices:
            await device.client.call("POST", UPLOAD, {"device_keys": identities[device.client.device_id]})
        user = clients[0]
        master, own, others = (_cross_signing_key() for _ in range(3))
        body = {
            "master_key": _published(user.user_id, "master", master),
            "self_signing_key": _published(user.user_id, "self_signing", own, by=master),
            "user_signing_key": _published(user.user_id, "user_signing", others, by=master),
        }
        await user.call("POST", "/_matrix/client/v3/keys/device_signing/upload", body)
        signed = {device_id: _with_signature(keys, user, own) for device_id, keys in identities.items()}
        await user.call("POST", "/_matrix/client/v3/keys/signatures/upload", {user.user_id: signed})
        return cls(user, devices)

    def close(self) -> None:
        """Hang up all devices."""
        for device in self.devices:
            device.client.close()


def message_path(event_type: str, transaction: str) -> str:
    """Where messages to devices are sent."""
    return f"/_matrix/client/v3/sendToDevice/{quote(event_type)}/{transaction}"


def olm_message() -> Json:
    """The content of an encrypted message that carries a room key, as long as they are; never the same."""
    ciphertext = {"type": 1, "body": encode_base64(secrets.token_bytes(640))}
    return {
        "algorithm": ALGORITHMS[0],
        "sender_key": _random_key(),
        "ciphertext": {_random_key(): ciphertext},
        "org.matrix.msgid": secrets.token_hex(16),
    }


def _random_key() -> str:
    return encode_base64(secrets.token_bytes(32))


def _cross_signing_key() -> SigningKey:
    """Its id is its public half, as the specification has it."""
    key = Ed25519SigningKey.generate()
    return SigningKey(f"ed25519:{encode_base64(bytes(key.verify_key))}", key)


def _published(user_id: str, usage: str, key: SigningKey, *, by: SigningKey | None = None) -> Json:
    value: Json = {
        "user_id": user_id,
        "usage": [usage],
        "keys": {key.key_id: key.verify_key.to_base64()},
    }
    return value if by is None else sign_json(value, user_id, by)


def _with_signature(keys: dict[str, Any], user: Client, key: SigningKey) -> Json:
    """As the signature is uploaded: the new one alone."""
    bare = {name: part for name, part in keys.items() if name != "signatures"}
    return sign_json(bare, user.user_id, key)
