# SPDX-License-Identifier: Apache-2.0
"""SRV records from a real name server on loopback."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest

from federation.discovery.srv import Srv, SrvLookup, system_name_servers
from federation.discovery.steps import Service, SrvRecord
from tests.federation.discovery.name_server import NameServer
from tests.reactor import reactor

NAME = "_matrix-fed._tcp.example.org"
RECORD = SrvRecord(10, 5, 8449, "m.example.net")


def lookup_of(*servers: tuple[str, int], timeouts: tuple[int, ...] = (30,)) -> SrvLookup:
    return SrvLookup(reactor, name_servers=lambda: list(servers), timeouts=timeouts)


async def test_records_are_read_and_kept(name_server: NameServer) -> None:
    """One question for as long as the TTL says."""
    name_server.records[NAME] = [RECORD]
    lookup = lookup_of(("127.0.0.1", name_server.port))
    for _ in range(2):
        assert await lookup.look_up(Service.CURRENT, "example.org") == Srv((RECORD,))
    assert name_server.asked == [NAME]


async def test_an_answer_too_long_for_a_datagram_is_asked_for_again(name_server: NameServer) -> None:
    """Over TCP, and of many records not all are kept."""
    records = [
        SrvRecord(number, 0, 8448, "a-rather-long-name-of-a-server.example.net") for number in range(40)
    ]
    name_server.records[NAME] = records
    found = await lookup_of(("127.0.0.1", name_server.port)).look_up(Service.CURRENT, "example.org")
    assert found == Srv(tuple(records[:16]))


async def test_what_is_kept_is_bounded_by_its_records(
    name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns a domain has any number of names in it, each with as many records as are read."""
    monkeypatch.setattr("federation.discovery.srv.MAX_KEPT", 20)
    lookup = lookup_of(("127.0.0.1", name_server.port))
    for number in range(8):
        name_server.records[f"_matrix-fed._tcp.s{number}.example"] = [RECORD] * 4
        assert len((await lookup.look_up(Service.CURRENT, f"s{number}.example")).records) == 4
    for number in (7, 6, 5, 4, 4):
        await lookup.look_up(Service.CURRENT, f"s{number}.example")
    assert len(name_server.asked) == 8
    await lookup.look_up(Service.CURRENT, "s3.example")
    assert len(name_server.asked) == 9


async def test_no_record_is_an_answer(name_server: NameServer) -> None:
    """Kept, and no problem."""
    lookup = lookup_of(("127.0.0.1", name_server.port))
    for _ in range(2):
        assert await lookup.look_up(Service.CURRENT, "example.org") == Srv()
    assert len(name_server.asked) == 1


async def test_the_root_as_target_is_an_empty_host(name_server: NameServer) -> None:
    """The service is said not to exist."""
    name_server.records[NAME] = [SrvRecord(0, 0, 0, "")]
    found = await lookup_of(("127.0.0.1", name_server.port)).look_up(Service.CURRENT, "example.org")
    assert found == Srv((SrvRecord(0, 0, 0, ""),))


async def test_names_that_cannot_be_are_not_asked_for(name_server: NameServer) -> None:
    """Nor believed as targets."""
    lookup = lookup_of(("127.0.0.1", name_server.port))
    for hostname in ("a" * 64, "a..b", "a" * 60 + "." + "b" * 60 + "." + "c" * 60 + "." + "d" * 60):
        assert await lookup.look_up(Service.CURRENT, hostname) == Srv()
    assert name_server.asked == []
    name_server.records[NAME] = [SrvRecord(0, 0, 1, "a b"), SrvRecord(0, 0, 2, "good.example")]
    found = await lookup.look_up(Service.CURRENT, "example.org")
    assert found == Srv((SrvRecord(0, 0, 2, "good.example"),))


async def test_a_failure_is_said_and_the_records_stand(
    name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records outlive their TTL while nobody can tell."""
    monkeypatch.setattr("federation.discovery.srv.SHORTEST_SECONDS", 0.0)
    name_server.ttl = 0
    name_server.records[NAME] = [RECORD]
    lookup = lookup_of(("127.0.0.1", name_server.port))
    assert await lookup.look_up(Service.CURRENT, "example.org") == Srv((RECORD,))
    name_server.records[NAME] = None
    found = await lookup.look_up(Service.CURRENT, "example.org")
    assert found.records == (RECORD,)
    assert found.problem is not None


async def test_a_port_that_is_taken_leaves_nothing_open(
    name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ports are tried at random until one is free; a socket that got none is closed, and not when memory is short."""
    name_server.records[NAME] = [RECORD]
    ports = [name_server.port] * 2
    monkeypatch.setattr("twisted.names.dns.randomSource", lambda: ports.pop(0) if ports else 0)
    gc.collect()
    with warnings.catch_warnings(record=True) as left_open:
        warnings.simplefilter("always")
        found = await lookup_of(("127.0.0.1", name_server.port)).look_up(Service.CURRENT, "example.org")
        gc.collect()
    assert found == Srv((RECORD,))
    assert not ports
    assert not left_open


async def test_a_silent_name_server_is_passed_over(name_server: NameServer) -> None:
    """The next one is asked; and when all are silent, that is said."""
    name_server.records[NAME] = [RECORD]
    silent = NameServer()
    silent.silent = True
    both = lookup_of(("127.0.0.1", silent.port), ("127.0.0.1", name_server.port), timeouts=(1, 10))
    assert (await both.look_up(Service.CURRENT, "example.org")).records == (RECORD,)
    alone = lookup_of(("127.0.0.1", silent.port), timeouts=(1,))
    none = await alone.look_up(Service.CURRENT, "example.org")
    assert none.problem is not None
    await silent.stop()


def test_name_servers_of_the_system(tmp_path: Path) -> None:
    """As resolv.conf(5) lists them; without one, this machine."""
    path = tmp_path / "resolv.conf"
    assert system_name_servers(path) == [("127.0.0.1", 53)]
    path.write_text(
        "# comment\nsearch example.org\nnameserver 10.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver\n"
    )
    assert system_name_servers(path) == [("10.0.0.1", 53), ("::1", 53)]
