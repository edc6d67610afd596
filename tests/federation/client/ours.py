# SPDX-License-Identifier: Apache-2.0
"""Our client beside one other server in memory."""

from typing import Any

from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.metrics import ClientMetrics
from tests.federation.keys.world import KEY, US
from tests.federation.servers import Network, RemoteServer


class Journal:
    """An `Availability` that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.open = True

    def may_try(self, destination: str) -> bool:
        return self.open

    def succeeded(self, destination: str) -> None:
        self.told.append("succeeded")

    def failed(self, destination: str) -> None:
        self.told.append("failed")


class Ours:
    """Our client, beside one other server."""

    def __init__(self) -> None:
        self.hydra = RemoteServer("hydra.test")
        self.availability = Journal()
        self.metrics = ClientMetrics()
        self.client = FederationClient(
            server_name=US,
            signing_key=KEY,
            wire=Network(self.hydra),
            availability=self.availability,
            metrics=self.metrics,
        )
        self.calls = FederationCalls(self.client)

    def answer(self, method: str, path: str, value: Any) -> None:
        """Let hydra answer so."""
        self.hydra.on(method, "/_matrix/federation" + path, lambda _request: value)
