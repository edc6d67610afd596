# SPDX-License-Identifier: Apache-2.0
"""Ed25519 signatures on JSON objects and events.

Owns making and checking signatures, and which servers must have signed an event (appendices, "Signing JSON";
server-server API, "Validating hashes and signatures on received events"). Does not own where keys come from
or until when they are valid: the caller hands in the keys that count.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from msgspec import Struct
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey as Ed25519SigningKey
from nacl.signing import VerifyKey as Ed25519VerifyKey

from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.errors import IdentifierError, SignatureError
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import essential_bytes
from homeserver.protocol.identifiers import check_user_id, domain_of, parse_key_id
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.unpadded_base64 import decode_base64, encode_base64

ALGORITHM: Final = "ed25519"
POLICY_KEY_ID: Final = "ed25519:policy_server"
"""Under which a policy server recommends events (`policy_servers`): never a key that proves where an event is from."""


class VerifyKey(Struct, frozen=True):
    """A public Ed25519 key."""

    _key: Ed25519VerifyKey

    @classmethod
    def from_base64(cls, text: str) -> Self:
        """Read a public key as servers publish it. Raises ValueError unless it is 32 bytes in Base64."""
        try:
            return cls(Ed25519VerifyKey(decode_base64(text)))
        except CryptoError as error:
            raise ValueError("not an Ed25519 public key") from error

    def to_base64(self) -> str:
        """The key as servers publish it."""
        return encode_base64(bytes(self._key))

    def verifies(self, data: bytes, signature: str) -> bool:
        """Whether ``signature``, in Base64, is this key's signature of ``data``."""
        try:
            self._key.verify(data, decode_base64(signature))
        except (CryptoError, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private Ed25519 key and the key id under which its signatures appear. The secret is not shown."""

    key_id: str
    _key: Ed25519SigningKey = field(repr=False)

    @classmethod
    def from_seed(cls, key_id: str, seed: bytes) -> Self:
        """The key of a 32-byte seed.

        Raises IdentifierError for a key id that is not ``ed25519:name``, ValueError for a seed of other
        length.
        """
        if parse_key_id(key_id).algorithm != ALGORITHM:
            raise IdentifierError(f"not an {ALGORITHM} key id: {key_id!r}")
        if len(seed) != 32:
            raise ValueError("an Ed25519 seed is 32 bytes")
        return cls(key_id, Ed25519SigningKey(seed))

    @property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self._key.verify_key)

    def sign(self, data: bytes) -> str:
        """The signature of ``data``, in unpadded Base64."""
        return encode_base64(self._key.sign(data).signature)


def sign_json(
    value: dict[str, Any], server_name: str, key: SigningKey, *, strict: bool = True
) -> dict[str, Any]:
    """A shallow copy of ``value`` with a signature added; ``unsigned`` is kept and not covered.

    ``strict=False`` admits floats and wide integers, for envelopes around content of other people's making.
    Raises CanonicalJsonError.
    """
    return _with_signature(value, server_name, key, encode_canonical(_covered(value), strict=strict))


def check_json_signature(value: dict[str, Any], server_name: str, keys: Mapping[str, VerifyKey]) -> None:
    """Check that ``server_name`` signed ``value`` with the ``keys`` (by key id) that are known and valid.

    Every signature by one of those keys must hold and there must be one; other key ids are skipped. Numbers
    are taken laxly, since servers sign requests around content that never was canonical.
    Raises SignatureError, CanonicalJsonError.
    """
    _check_signatures(value, server_name, keys, encode_canonical(_covered(value), strict=False))


def sign_pdu(
    pdu: dict[str, Any], room_version: RoomVersion, server_name: str, key: SigningKey
) -> dict[str, Any]:
    """A shallow copy of a PDU, whose ``hashes`` are in place, with a signature added. The event id stays.

    Raises CanonicalJsonError.
    """
    return _with_signature(pdu, server_name, key, essential_bytes(pdu, room_version))


def required_signing_domains(event: Event) -> frozenset[str]:
    """The servers that must have signed the event; all of them, each with a key of its own.

    Raises IdentifierError if a restricted join names an authorising user that is no user id.
    """
    domains: set[str] = set()
    content = event.content
    is_member = event.type == "m.room.member"
    # A third-party invite is sent in the inviter's name by the server that learns who the invited is; its
    # proof is the signed token, which the authorization rules check.
    if not (is_member and content.get("membership") == "invite" and "third_party_invite" in content):
        domains.add(domain_of(event.sender))
    if event.room_version.chooses_event_ids:
        domains.add(domain_of(event.event_id))
    if event.room_version.restricted_joins and is_member and "join_authorised_via_users_server" in content:
        authoriser = content["join_authorised_via_users_server"]
        if type(authoriser) is not str:
            raise IdentifierError("`join_authorised_via_users_server` must be a string")
        check_user_id(authoriser)
        domains.add(domain_of(authoriser))
    return frozenset(domains)


def signing_key_ids(value: dict[str, Any], server_name: str) -> tuple[str, ...]:
    """The ids of the Ed25519 keys under which ``server_name`` claims to have signed an object or PDU."""
    signatures = value.get("signatures")
    by_key = signatures.get(server_name) if type(signatures) is dict else None
    if type(by_key) is not dict:
        return ()
    return tuple(key_id for key_id in by_key if key_id.startswith(ALGORITHM + ":"))


def origin_key_ids(event: Event, server_name: str) -> tuple[str, ...]:
    """The ids of the keys under which ``server_name`` claims the event as its own."""
    return tuple(key_id for key_id in signing_key_ids(event.pdu, server_name) if key_id != POLICY_KEY_ID)


def check_event_signatures(event: Event, keys: Mapping[str, Mapping[str, VerifyKey]]) -> None:
    """Check the signatures of every server that must have signed the event.

    ``keys`` holds, by server and key id, the keys known and, where the room version enforces that, valid at
    the event's ``origin_server_ts``. Raises SignatureError for a server without a good signature or with a
    bad one by any of those keys, IdentifierError as ``required_signing_domains``.
    """
    data = essential_bytes(event.pdu, event.room_version)
    for server_name in required_signing_domains(event):
        known = keys.get(server_name, {})
        usable = {key_id: known[key_id] for key_id in origin_key_ids(event, server_name) if key_id in known}
        _check_signatures(event.pdu, server_name, usable, data)


def _check_signatures(
    value: dict[str, Any], server_name: str, keys: Mapping[str, VerifyKey], data: bytes
) -> None:
    usable = [key_id for key_id in signing_key_ids(value, server_name) if key_id in keys]
    if not usable:
        raise SignatureError(f"no signature of {server_name} by a known key")
    for key_id in usable:
        signature = value["signatures"][server_name][key_id]
        if type(signature) is not str or not keys[key_id].verifies(data, signature):
            raise SignatureError(f"the signature of {server_name} by {key_id} is wrong")


def _covered(value: dict[str, Any]) -> dict[str, Any]:
    return {key: part for key, part in value.items() if key not in ("signatures", "unsigned")}


def _with_signature(value: dict[str, Any], server_name: str, key: SigningKey, data: bytes) -> dict[str, Any]:
    signatures = value.get("signatures", {})
    own = {**signatures.get(server_name, {}), key.key_id: key.sign(data)}
    return {**value, "signatures": {**signatures, server_name: own}}
