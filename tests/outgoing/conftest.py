# SPDX-License-Identifier: Apache-2.0
"""An authority, and servers that are stopped after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homeserver.outgoing import OutgoingClient
from tests.federation.certificates import CertificateAuthority, Leaf
from tests.outgoing.servers import Script, Server, client_of
from tests.reactor import run

Serve = Callable[..., Server]
MakeClient = Callable[..., OutgoingClient]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """An authority nobody but the test trusts."""
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(script, leaf=None, interface="127.0.0.1")` gives a running server."""
    running: list[Server] = []

    def begin(script: Script, leaf: Leaf | None = None, interface: str = "127.0.0.1") -> Server:
        running.append(Server(script, leaf, interface))
        return running[-1]

    yield begin
    for server in running:
        run(server.stop())


@pytest.fixture
def make_client(authority: CertificateAuthority) -> Iterator[MakeClient]:
    """`make_client(…)` as `client_of`, closed after the test."""
    made: list[OutgoingClient] = []

    def make(
        *arguments: object, ca_file: Path | None = authority.ca_file, **options: object
    ) -> OutgoingClient:
        made.append(client_of(*arguments, ca_file=ca_file, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for client in made:
        client.close()
