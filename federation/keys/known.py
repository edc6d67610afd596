# SPDX-License-Identifier: Apache-2.0
"""Keys of other servers in memory, and when their servers may be asked again.

Owns two bounded caches and the questions put to them. Fetching and keeping is `keyring`'s.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Final

from msgspec import Struct

from homeserver.protocol.compromised_keys import is_compromised
from homeserver.protocol.signing import VerifyKey
from homeserver.protocol.unpadded_base64 import encode_base64
from storage.server_keys import ServerKey

MOST_SERVERS: Final = 20_000
MOST_KNOWN: Final = 40_000
"""Keys and the servers whose they are, some 500 bytes each."""
_LOOKS: Final = 64
"""Servers looked at for one to forget, beside one for each that is no longer held."""
#: Milliseconds until a server that answered may be asked again: an unknown key id costs it no more than this.
PAUSE_AFTER_ANSWER: Final = 60_000
#: After a first failure; twice as long after each further one, up to the longest.
PAUSE_AFTER_FAILURE: Final = 30_000
LONGEST_PAUSE: Final = 600_000


class Need(Struct, frozen=True):
    """Signatures of a server, of which at least one must be by a key that is known.

    `at`: milliseconds; the key must have been valid then. None: whenever.
    """

    server_name: str
    key_ids: Collection[str]
    at: int | None


class _Key(Struct, frozen=True):
    key: VerifyKey
    valid_until: int
    retired: bool


class KnownKeys:
    """Keys by server and id; the servers used longest ago are forgotten first.

    But for those that are held: who has obtained keys and is about to use them would take them for unknown.
    """

    def __init__(self, most: int = MOST_KNOWN) -> None:
        """`most`: keys and servers."""
        self._most = most
        self._servers: OrderedDict[str, dict[str, list[_Key]]] = OrderedDict()
        self._held: dict[str, int] = {}
        self.size = 0
        """Keys and servers."""

    def hold(self, server_names: Collection[str]) -> None:
        """Keep what is known of each of these, or will be, until it is released as often."""
        for name in server_names:
            self._held[name] = self._held.get(name, 0) + 1

    def release(self, server_names: Collection[str]) -> None:
        """What was held may be forgotten."""
        for name in server_names:
            left = self._held[name] - 1
            if left:
                self._held[name] = left
            else:
                del self._held[name]
        self._forget(_LOOKS + len(server_names))

    def _forget(self, looks: int) -> None:
        while self.size > self._most and looks and self._servers:
            looks -= 1
            name, by_id = self._servers.popitem(last=False)
            if name in self._held:
                self._servers[name] = by_id
            else:
                self.size -= _size(by_id)

    def __contains__(self, server_name: str) -> bool:
        """Whether the database was read for the server, be it in vain."""
        return server_name in self._servers

    def put(self, server_names: Collection[str], keys: Iterable[ServerKey]) -> None:
        """What the database holds of these servers, which is all there is."""
        for name in server_names:
            self.size += 1 - _size(self._servers.pop(name, None))
            self._servers[name] = {}
        for row in keys:
            key = VerifyKey.from_base64(encode_base64(row.public_key))
            if not is_compromised(key):  # known to be so only since it was kept
                by_id = self._servers[row.server_name]
                by_id.setdefault(row.key_id, []).append(_Key(key, row.valid_until_ts, row.retired))
                self.size += 1
        self._forget(_LOOKS + len(server_names))

    def valid(self, server_name: str, key_id: str, at: int | None) -> list[VerifyKey]:
        """The keys of that id that were valid at a time; at any, if None."""
        by_id = self._servers.get(server_name)
        if by_id is None:
            return []
        self._servers.move_to_end(server_name)
        return [each.key for each in by_id.get(key_id, ()) if at is None or at <= each.valid_until]

    def in_use(self, server_name: str, key_ids: Collection[str] | None, now: int) -> dict[str, VerifyKey]:
        """The keys, by id, that the server signs with now; of all its ids, if None."""
        by_id = self._servers.get(server_name, {})
        return {
            key_id: each.key
            for key_id in (by_id if key_ids is None else key_ids)
            for each in by_id.get(key_id, ())
            if not each.retired and now <= each.valid_until
        }

    def expired(self, need: Need) -> bool:
        """Whether keys are known, but none that was valid then."""
        return any(self.valid(need.server_name, key_id, None) for key_id in need.key_ids)

    def meets(self, need: Need) -> bool:
        """Whether one of the signatures can be checked."""
        return any(self.valid(need.server_name, key_id, need.at) for key_id in need.key_ids)


def _size(by_id: dict[str, list[_Key]] | None) -> int:
    return 0 if by_id is None else 1 + sum(map(len, by_id.values()))


class Attempts:
    """When a server was asked in vain or not, and so when it may be asked again."""

    def __init__(self, most: int = MOST_SERVERS) -> None:
        self._most = most
        # Server → (when it may be asked again, failures in a row).
        self._next: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def may_ask(self, server_name: str, now: int) -> bool:
        """Whether it is time."""
        return self._next.get(server_name, (0, 0))[0] <= now

    def answered(self, server_name: str, now: int) -> None:
        """It said what its keys are."""
        self._put(server_name, now + PAUSE_AFTER_ANSWER, 0)

    def failed(self, server_name: str, now: int) -> None:
        """It did not."""
        failures = self._next.get(server_name, (0, 0))[1] + 1
        pause = min(PAUSE_AFTER_FAILURE << min(failures - 1, 16), LONGEST_PAUSE)
        self._put(server_name, now + pause, failures)

    def _put(self, server_name: str, until: int, failures: int) -> None:
        self._next[server_name] = (until, failures)
        self._next.move_to_end(server_name)
        if len(self._next) > self._most:
            self._next.popitem(last=False)
