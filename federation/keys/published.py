# SPDX-License-Identifier: Apache-2.0
"""What a server publishes of its keys, read: `GET /_matrix/key/v2/server`, directly or out of a notary's mouth.

Owns the checks of one answer: whose it is, that its own keys signed it, which of its keys are usable and until when.
Does not own whether the answer is to be believed: anybody can sign such an answer with a key just made; what counts is
from whom it came.
"""

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from homeserver.protocol.compromised_keys import is_compromised
from homeserver.protocol.errors import IdentifierError, ProtocolError
from homeserver.protocol.identifiers import parse_key_id
from homeserver.protocol.signing import ALGORITHM, VerifyKey, check_json_signature
from homeserver.protocol.unpadded_base64 import decode_base64
from storage.server_keys import ServerKey

#: Keys are believed for this long at most, whatever their server says (server-server API, `valid_until_ts`).
LONGEST_MS: Final = 7 * 24 * 3600 * 1000
#: Present and old keys of one server. Those who change theirs each month for two years have fewer.
MOST_KEYS: Final = 32


class BadServerKeys(Exception):
    """The answer cannot be used; says why."""


class Published(Struct, frozen=True):
    """A checked answer."""

    server_name: str
    keys: tuple[ServerKey, ...]
    valid_until_ts: int
    """No later than seven days from now."""
    answer: dict[str, Any]


def read_published(answer: object, server_name: str, *, now: int) -> Published:
    """Check an answer about a server. `now` is in milliseconds. Raises BadServerKeys.

    Old keys end at `expired_ts`, or now if that lies ahead: they are for events of the past only.
    """
    if type(answer) is not dict:
        raise BadServerKeys("it is no object")
    if answer.get("server_name") != server_name:
        raise BadServerKeys("it is about another server")
    given_until = answer.get("valid_until_ts")
    if type(given_until) is not int:
        raise BadServerKeys("valid_until_ts must be an integer")
    valid_until = max(0, min(given_until, now + LONGEST_MS))
    present = dict(_keys(answer, "verify_keys"))
    old = list(_old_keys(answer, now))
    if len(present) + len(old) > MOST_KEYS:
        raise BadServerKeys(f"it has more than {MOST_KEYS} keys")
    try:
        check_json_signature(answer, server_name, present)
    except ProtocolError as error:
        raise BadServerKeys(f"it is not signed by its own keys: {error}") from error
    keys = [
        *(
            _server_key(server_name, key_id, key, valid_until, retired=False)
            for key_id, key in present.items()
        ),
        *(
            _server_key(server_name, key_id, key, expired, retired=True)
            for key_id, key, expired in old
            if key_id not in present
        ),
    ]
    return Published(server_name, tuple(keys), valid_until, answer)


def _server_key(server_name: str, key_id: str, key: VerifyKey, until: int, *, retired: bool) -> ServerKey:
    return ServerKey(server_name, key_id, decode_base64(key.to_base64()), until, retired)


def _keys(answer: dict[str, Any], name: str) -> Iterator[tuple[str, VerifyKey]]:
    for key_id, key, _fields in _entries(answer, name):
        yield key_id, key


def _old_keys(answer: dict[str, Any], now: int) -> Iterator[tuple[str, VerifyKey, int]]:
    for key_id, key, fields in _entries(answer, "old_verify_keys"):
        expired = fields.get("expired_ts")
        if type(expired) is int:
            yield key_id, key, max(0, min(expired, now - 1))


def _entries(answer: dict[str, Any], name: str) -> Iterator[tuple[str, VerifyKey, dict[str, Any]]]:
    """Usable keys of either kind. Raises BadServerKeys where there are too many to look at."""
    entries = answer.get(name, {})
    if type(entries) is not dict:
        raise BadServerKeys(f"{name} must be an object")
    if len(entries) > MOST_KEYS:
        raise BadServerKeys(f"it has more than {MOST_KEYS} keys")
    for key_id, fields in entries.items():
        key = _usable(key_id, fields)
        if key is not None:
            yield key_id, key, fields


def _usable(key_id: str, fields: object) -> VerifyKey | None:
    """The key, unless it is of another algorithm, malformed, or known to be in everybody's hands."""
    try:
        if parse_key_id(key_id).algorithm != ALGORITHM or len(key_id) > 255:
            return None
    except IdentifierError:
        return None
    text = fields.get("key") if type(fields) is dict else None
    if type(text) is not str:
        return None
    try:
        key = VerifyKey.from_base64(text)
    except ValueError:
        return None
    return None if is_compromised(key) else key
