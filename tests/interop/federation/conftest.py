# SPDX-License-Identifier: Apache-2.0
"""The servers of the federation: two of ours and a Synapse, each started when first needed and kept for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.federation.certificates import CertificateAuthority, Leaf
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.people import Person
from tests.interop.federation.synapse import SynapseServer

Server = LaresServer | SynapseServer

_serial = count(1)


class Federation:
    """Servers by name, all trusting one authority."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = CertificateAuthority(directory / "authority")
        self.leaf: Leaf = self.authority.issue("localhost", "127.0.0.1")
        self._servers: dict[str, Server] = {}

    def server(self, name: str) -> Server:
        """`lares`, `other lares` or `synapse`, running."""
        if name not in self._servers:
            self._servers[name] = self.start(name)
        return self._servers[name]

    def start(self, name: str) -> Server:
        """A new server of the kind that the name ends in."""
        kind = SynapseServer if name.endswith("synapse") else LaresServer
        server: Server = kind(
            self.directory / f"{name.replace(' ', '-')}-{next(_serial)}",
            certificate=self.leaf.certificate,
            private_key=self.leaf.private_key,
            ca_file=self.authority.ca_file,
        )
        server.start()
        return server

    def person(self, server: str | Server, name: str) -> Person:
        """A new account with the name and a number."""
        place = self.server(server) if isinstance(server, str) else server
        return place.register(f"{name}{next(_serial)}")

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Everything stops when the session ends; our servers' logs must hold no traceback."""
    made = Federation(tmp_path_factory.mktemp("federation"))
    try:
        yield made
    finally:
        made.stop()
    for server in made._servers.values():
        if isinstance(server, LaresServer):
            assert "Traceback (most recent call last)" not in server.log(), server.log()[-12_000:]
