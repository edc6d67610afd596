# SPDX-License-Identifier: Apache-2.0
"""Two servers of ours, and policy servers that other servers run, over HTTPS on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import room_version
from homeserver.protocol.signing import POLICY_KEY_ID
from tests.federation.certificates import CertificateAuthority, Leaf
from tests.federation.hostile.hostile_server import HostileServer, Json, listening
from tests.federation.servers import Received, Refused
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.people import Person
from tests.rooms.policy_fixture import KEY, signature

VERSION = "11"
_serial = count(1)


@dataclass(slots=True)
class Guard:
    """A policy server that refuses what says "spam", and a member of rooms (`server`)."""

    server: HostileServer
    down: bool = False
    asked: list[tuple[str, Json]] = field(default_factory=list)
    """By whom, about what."""

    def __post_init__(self) -> None:
        self.server.on("POST", "/_matrix/policy/v1/sign", self._sign)

    @property
    def content(self) -> Mapping[str, Any]:
        """By which a room chooses it."""
        return {"via": self.server.name, "public_keys": {"ed25519": KEY.verify_key.to_base64()}}

    def askers(self, body: str) -> list[str]:
        """Who asked about a message."""
        return [origin for origin, pdu in list(self.asked) if pdu["content"].get("body") == body]

    def recommended(self, body: str) -> list[Json]:
        """The message as it came in transactions, with this policy server's signature."""
        found = self.server.signed_by(self.server.name)
        return [
            pdu
            for pdu in found
            if pdu["content"].get("body") == body
            and pdu["signatures"][self.server.name].get(POLICY_KEY_ID)
            == signature(Event.from_pdu(pdu, room_version(VERSION)))
        ]

    def _sign(self, request: Received) -> Any:
        if self.down:
            raise ConnectionResetError
        self.asked.append((str(request.origin), request.json))
        if "spam" in str(request.json["content"]):
            raise Refused(400, "ORG.EXAMPLE.SPAM", "The message appears to be spam")
        event = Event.from_pdu(request.json, room_version(VERSION))
        return {self.server.name: {POLICY_KEY_ID: signature(event)}}


@dataclass(frozen=True, slots=True)
class Field:
    """Our servers."""

    here: LaresServer
    there: LaresServer
    leaf: Leaf
    ca_file: Path


@pytest.fixture(scope="package")
def field_of_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """The servers are stopped in the end, and insisted to exit cleanly."""
    directory = tmp_path_factory.mktemp("policy")
    authority = CertificateAuthority(directory / "authority")
    leaf = authority.issue("localhost", "127.0.0.1")
    servers = [
        LaresServer(
            directory / name,
            certificate=leaf.certificate,
            private_key=leaf.private_key,
            ca_file=authority.ca_file,
        )
        for name in ("here", "there")
    ]
    try:
        for server in servers:
            server.process.launch()
        for server in servers:
            server.process.wait_ready()
        here, there = servers
        yield Field(here, there, leaf, authority.ca_file)
        for server in servers:
            server.stop()
            assert "Traceback (most recent call last)" not in server.log(), server.log()[-12_000:]
    finally:
        for server in servers:
            server.process.close()


@pytest.fixture
def alice(field_of_servers: Field) -> Person:
    """A new user of our first server."""
    return field_of_servers.here.register(f"alice{next(_serial)}")


@pytest.fixture
def berta(field_of_servers: Field) -> Person:
    """A new user of our second server."""
    return field_of_servers.there.register(f"berta{next(_serial)}")


Raise = Callable[[], HostileServer]


@pytest.fixture
def rising(field_of_servers: Field) -> Iterator[Raise]:
    """Makes other servers, which talk to our first."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(
            listening(field_of_servers.here.server_name, field_of_servers.leaf, field_of_servers.ca_file)
        )


@pytest.fixture
def guard(rising: Raise) -> Guard:
    """A new policy server."""
    return Guard(rising())
