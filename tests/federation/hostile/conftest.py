# SPDX-License-Identifier: Apache-2.0
"""One server of ours for all attacks, and a hostile server with a name of its own for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path

import pytest

from tests.federation.certificates import CertificateAuthority, Leaf
from tests.federation.hostile.hostile_server import V1, Connection, HostileServer, listening
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.people import PATIENCE, Person, Refused

_serial = count(1)


@dataclass(frozen=True, slots=True)
class Field:
    """Our server, and what it takes to stand before it."""

    lares: LaresServer
    leaf: Leaf
    ca_file: Path


@pytest.fixture(scope="package")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """The server is stopped in the end, and insisted to exit cleanly."""
    directory = tmp_path_factory.mktemp("hostile")
    authority = CertificateAuthority(directory / "authority")
    leaf = authority.issue("localhost", "127.0.0.1")
    lares = LaresServer(
        directory / "lares",
        certificate=leaf.certificate,
        private_key=leaf.private_key,
        ca_file=authority.ca_file,
    )
    try:
        lares.start()
        yield Field(lares, leaf, authority.ca_file)
        lares.stop()
    finally:
        lares.process.close()


@dataclass(slots=True)
class Waiting:
    """A join by way of a server that sends a byte now and then: under way while the attacks take place."""

    thread: threading.Thread
    statuses: list[int]
    """What the client was answered, once it was."""


@pytest.fixture(scope="package", autouse=True)
def waiting(field: Field) -> Iterator[Waiting]:
    """Begun before the first attack."""
    with listening(field.lares.server_name, field.leaf, field.ca_file) as slow:
        patient, begun, statuses = field.lares.register("patient"), threading.Event(), list[int]()

        def drip(connection: Connection) -> None:
            begun.set()
            connection.drip(repeat(b" "), 0.25)

        def join() -> None:
            try:
                patient.join(slow.room_id(), slow.name)
            except Refused as refusal:
                statuses.append(refusal.status)

        slow.on("GET", f"{V1}/make_join/{{room}}/{{user}}", lambda _request: drip)
        thread = threading.Thread(target=join)
        thread.start()
        try:
            assert begun.wait(PATIENCE)
            yield Waiting(thread, statuses)
        finally:
            thread.join()


@pytest.fixture(autouse=True)
def _no_traceback(field: Field) -> Iterator[None]:
    """Whatever was done, our server logged no traceback and is there."""
    before = len(field.lares.log())
    yield
    logged = field.lares.log()[before:]
    assert "Traceback (most recent call last)" not in logged, logged[-12_000:]
    assert field.lares.process.running


@pytest.fixture
def lares(field: Field) -> LaresServer:
    """Our server."""
    return field.lares


@pytest.fixture
def alice(field: Field) -> Person:
    """A new user of ours."""
    return field.lares.register(f"alice{next(_serial)}")


Raise = Callable[[str], HostileServer]


@pytest.fixture
def rising(field: Field) -> Iterator[Raise]:
    """Makes hostile servers, by the host of their names."""
    with ExitStack() as stack:
        yield lambda host: stack.enter_context(
            listening(field.lares.server_name, field.leaf, field.ca_file, host)
        )


@pytest.fixture
def hostile(rising: Raise) -> HostileServer:
    """A new hostile server."""
    return rising("localhost")
