# SPDX-License-Identifier: Apache-2.0
"""This server's own keys: the one it signs with, those it used to, and what it publishes of them.

Owns the answer to `GET /_matrix/key/v2/server`. Does not own the files and settings they come from.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from homeserver.config.sections import Federation
from homeserver.protocol.signing import SigningKey, VerifyKey, sign_json

#: How long others may rely on the answer: so long they need not reach us to check what we signed, and so long it takes
#: until all have heard that a key is used no more.
VALID_MS: Final = 24 * 3600 * 1000
#: How long one answer is given: an answer about to expire would be asked for again at once.
_RENEWED_MS: Final = 3600 * 1000


class OldKey(Struct, frozen=True):
    """A key this server signed with until `expired_ts` (ms since 1970)."""

    key_id: str
    key: VerifyKey
    expired_ts: int


def configured_old_keys(config: Federation) -> list[OldKey]:
    """Those of `federation.old_keys`."""
    return [OldKey(each.key_id, VerifyKey.from_base64(each.key), each.expired_ts) for each in config.old_keys]


class OwnKeys:
    """Our keys. Raises ValueError for an old key under the present key's id."""

    def __init__(
        self,
        *,
        server_name: str,
        signing_key: SigningKey,
        old_keys: Iterable[OldKey] = (),
        now: Callable[[], int],
    ) -> None:
        self.server_name = server_name
        self.signing_key = signing_key
        self._old = tuple(old_keys)
        self._now = now
        self._answer: Mapping[str, Any] = {}
        self._renew_at = 0
        if any(old.key_id == signing_key.key_id for old in self._old):
            raise ValueError(f"{signing_key.key_id} is the id of the present signing key")

    def valid(self, key_id: str, at: int | None) -> list[VerifyKey]:
        """Our keys of that id that were valid at a time; at any, if None."""
        if key_id == self.signing_key.key_id:
            return [self.signing_key.verify_key]
        return [old.key for old in self._old if old.key_id == key_id and (at is None or at <= old.expired_ts)]

    def published(self) -> Mapping[str, Any]:
        """What we say of our keys, signed; the same for an hour."""
        now = self._now()
        if now >= self._renew_at:
            self._renew_at = now + _RENEWED_MS
            self._answer = self.sign(
                {
                    "server_name": self.server_name,
                    "verify_keys": {
                        self.signing_key.key_id: {"key": self.signing_key.verify_key.to_base64()}
                    },
                    "old_verify_keys": {
                        old.key_id: {"key": old.key.to_base64(), "expired_ts": old.expired_ts}
                        for old in self._old
                    },
                    "valid_until_ts": now + VALID_MS,
                }
            )
        return self._answer

    def sign(self, value: dict[str, Any]) -> dict[str, Any]:
        """An object with our signature added."""
        return sign_json(value, self.server_name, self.signing_key, strict=False)
