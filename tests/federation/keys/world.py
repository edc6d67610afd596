# SPDX-License-Identifier: Apache-2.0
"""A keyring on a real database, in a network in memory, with a clock that is set by hand."""

from collections.abc import Sequence

from federation.client.wire import Wire
from federation.keys.keyring import Keyring
from federation.keys.known import MOST_KNOWN
from federation.keys.notary import Notary
from federation.keys.own import OldKey, OwnKeys
from storage.database import Database
from storage.server_keys import ServerKeyStore
from tests.federation.servers import Network, RemoteServer, make_key, now_ms

US = "us.test"
KEY = make_key("our own key", "ed25519:ours")
MINUTE = 60_000
DAY = 24 * 60 * MINUTE


class Clock:
    """Milliseconds, moved by tests."""

    def __init__(self) -> None:
        self.now = now_ms()

    def __call__(self) -> int:
        return self.now


class World:
    """Everything around one keyring. `another` is a further process on the same database."""

    def __init__(
        self,
        database: Database,
        *servers: RemoteServer,
        notaries: Sequence[str] = (),
        old_keys: Sequence[OldKey] = (),
        wire: Wire | None = None,
    ) -> None:
        self.clock = Clock()
        self.network = Network(*servers)
        self.store = ServerKeyStore(database)
        self.own = OwnKeys(server_name=US, signing_key=KEY, old_keys=old_keys, now=self.clock)
        self._notaries = notaries
        self._wire = wire or self.network
        self.keyring = self.another()
        self.notary = Notary(own=self.own, keyring=self.keyring, store=self.store, now=self.clock)

    def another(self, most_known: int = MOST_KNOWN) -> Keyring:
        """A keyring that remembers nothing yet."""
        return Keyring(
            own=self.own,
            store=self.store,
            wire=self._wire,
            notaries=self._notaries,
            now=self.clock,
            most_known=most_known,
        )


def asked_for_keys(server: RemoteServer) -> int:
    """How often a server was asked for its own keys."""
    return len(server.requests("GET", "/_matrix/key/v2/server"))
