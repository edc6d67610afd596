# SPDX-License-Identifier: Apache-2.0
"""The form of keys for end-to-end encryption: of devices, one-time and fallback keys, cross-signing keys.

Owns what such objects must look like to be stored and handed on to other servers, and their own signatures
(client-server API, "End-to-End Encryption", "Cross-signing"). Does not own whose they may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from msgspec import Struct

from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.errors import ProtocolError, SignatureError
from homeserver.protocol.signing import VerifyKey, check_json_signature

MAX_KEYS_BYTES: Final = 65_536
"""Of one device's identity keys, or one key of any other kind."""
MAX_NAME: Final = 255
"""Characters of an algorithm, key id or device id."""
MAX_ENTRIES: Final = 100
"""Keys, algorithms or signatures within one object."""

USAGES: Final = ("master", "self_signing", "user_signing")


class KeyFormError(ProtocolError):
    """An object that is no key of its kind."""

    errcode: ClassVar[str] = "M_BAD_JSON"


class CrossSigningKey(Struct, frozen=True):
    """A cross-signing key that has the right form."""

    user_id: str
    usage: str
    public_key: str
    """Unpadded Base64, and the name by which it is signed for."""
    value: dict[str, Any]
    """Without `unsigned`, and with no signatures but its owner's."""

    @property
    def key_id(self) -> str:
        """How its signatures are labelled."""
        return "ed25519:" + self.public_key

    @property
    def verify_key(self) -> VerifyKey:
        return VerifyKey.from_base64(self.public_key)


def checked_device_keys(value: Mapping[str, Any], user_id: str, device_id: str) -> dict[str, Any]:
    """Device keys without `unsigned`, if they have the form and name that user and device. Raises KeyFormError."""
    keys = {name: part for name, part in value.items() if name != "unsigned"}
    if keys.get("user_id") != user_id:
        raise KeyFormError("user_id in device keys does not match that of the device's owner")
    if keys.get("device_id") != device_id:
        raise KeyFormError("device_id in device keys does not match that of the device")
    algorithms = keys.get("algorithms")
    if type(algorithms) is not list or len(algorithms) > MAX_ENTRIES or not all(map(_is_name, algorithms)):
        raise KeyFormError("algorithms in device keys must be a list of strings")
    public = keys.get("keys")
    if type(public) is not dict or not 0 < len(public) <= MAX_ENTRIES:
        raise KeyFormError("keys in device keys must be an object that is not empty")
    for name, key in public.items():
        algorithm, separator, of_device = name.partition(":")
        if not (algorithm and separator and of_device == device_id and _is_name(name) and type(key) is str):
            raise KeyFormError("keys in device keys must map <algorithm>:<device id> to strings")
    _check_signatures_form(keys.get("signatures"))
    _check_size(keys)
    return keys


def check_own_signature(keys: dict[str, Any]) -> None:
    """Check that device keys are signed by the Ed25519 key they hold. Raises KeyFormError, SignatureError."""
    name = f"ed25519:{keys['device_id']}"
    text = keys["keys"].get(name)
    if text is None:
        raise KeyFormError(f"keys in device keys lacks {name}")
    try:
        own = VerifyKey.from_base64(text)
    except ValueError as error:
        raise KeyFormError(f"{name} is not an Ed25519 public key") from error
    check_json_signature(keys, keys["user_id"], {name: own})


def split_key_name(name: str) -> tuple[str, str]:
    """Algorithm and key id of `<algorithm>:<key id>`. Raises KeyFormError."""
    algorithm, separator, key_id = name.partition(":")
    if not (algorithm and separator and key_id and _is_name(name)):
        raise KeyFormError("the name of a one-time key must be <algorithm>:<key id>")
    return algorithm, key_id


def checked_one_time_key(name: str, key: object) -> bytes:
    """The canonical JSON of a one-time or fallback key, if it has the form. Raises KeyFormError.

    A signed key is an object with `key` and `signatures`; an unsigned one may be a string.
    """
    algorithm, _ = split_key_name(name)
    if type(key) is dict:
        if type(key.get("key")) is not str:
            raise KeyFormError(f"{name} lacks its key")
        if "signatures" in key or algorithm.startswith("signed_"):
            _check_signatures_form(key.get("signatures"))
    elif type(key) is not str or algorithm.startswith("signed_"):
        raise KeyFormError(f"{name} is neither a signed key nor a string")
    return _check_size(key)


def checked_cross_signing_key(value: object, user_id: str, usage: str) -> CrossSigningKey:
    """A cross-signing key, if it has the form, that user's and that usage. Raises KeyFormError."""
    if type(value) is not dict:
        raise KeyFormError("a cross-signing key is an object")
    if value.get("user_id") != user_id:
        raise KeyFormError("user_id in a cross-signing key does not match that of its owner")
    usages = value.get("usage")
    if type(usages) is not list or usage not in usages or not all(map(_is_name, usages)):
        raise KeyFormError(f"usage in a cross-signing key must hold {usage}")
    keys = value.get("keys")
    if type(keys) is not dict or len(keys) != 1:
        raise KeyFormError("keys in a cross-signing key must hold exactly one")
    ((name, public_key),) = keys.items()
    if type(public_key) is not str or name != f"ed25519:{public_key}":
        raise KeyFormError("keys in a cross-signing key must map ed25519:<public key> to the public key")
    try:
        spelling = VerifyKey.from_base64(public_key).to_base64()
    except ValueError as error:
        raise KeyFormError("a cross-signing key is not an Ed25519 public key") from error
    if spelling != public_key:
        raise KeyFormError("a cross-signing key must be unpadded Base64")
    kept = {name: part for name, part in value.items() if name not in ("unsigned", "signatures")}
    if "signatures" in value:
        _check_signatures_form(value["signatures"])
        own = value["signatures"].get(user_id)
        if own:
            kept["signatures"] = {user_id: own}
    _check_size(kept)
    return CrossSigningKey(user_id, usage, public_key, kept)


def check_signed_by(value: dict[str, Any], user_id: str, key_id: str, key: VerifyKey) -> None:
    """Check that an object is signed by one particular key of a user. Raises SignatureError."""
    check_json_signature(value, user_id, {key_id: key})


def signatures_by(value: Mapping[str, Any], user_id: str) -> dict[str, str]:
    """By key id, the signatures a user made on an object. Raises KeyFormError."""
    signatures = value.get("signatures")
    _check_signatures_form(signatures)
    assert isinstance(signatures, dict)
    return dict(signatures.get(user_id, {}))


def same_but_signatures(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two signed objects say the same thing."""
    beside = ("signatures", "unsigned")
    left, right = ({name: v[name] for name in v if name not in beside} for v in (one, other))
    return encode_canonical(left, strict=False) == encode_canonical(right, strict=False)


def is_signed_by(value: dict[str, Any], user_id: str, key_id: str, key: VerifyKey) -> bool:
    """Whether `check_signed_by` passes."""
    try:
        check_signed_by(value, user_id, key_id, key)
    except SignatureError:
        return False
    return True


def _check_signatures_form(signatures: object) -> None:
    if type(signatures) is not dict or len(signatures) > MAX_ENTRIES:
        raise KeyFormError("signatures must be an object")
    for by_key in signatures.values():
        if type(by_key) is not dict or len(by_key) > MAX_ENTRIES:
            raise KeyFormError("signatures must map user ids to objects")
        if not all(_is_name(name) and type(signature) is str for name, signature in by_key.items()):
            raise KeyFormError("signatures must map user ids to key ids to strings")


def _check_size(value: object) -> bytes:
    """Its canonical JSON. Other servers will take nothing that has none: see `KeyFormError`."""
    try:
        encoded = encode_canonical(value)
    except ProtocolError as error:
        raise KeyFormError(f"a key must be canonical JSON: {error}") from error
    if len(encoded) > MAX_KEYS_BYTES:
        raise KeyFormError(f"a key has at most {MAX_KEYS_BYTES} bytes")
    if b"\\u0000" in encoded:
        raise KeyFormError("a key cannot contain NUL")
    return encoded


def _is_name(text: object) -> bool:
    return type(text) is str and len(text) <= MAX_NAME
