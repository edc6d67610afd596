# SPDX-License-Identifier: Apache-2.0
"""The whole walk, over real name servers and real TLS: from a name to an answer of the right server."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence

import pytest

from federation.discovery import DiscoveryFailed, ServerDiscovery, make_discovery
from federation.discovery.steps import SrvRecord, Step
from homeserver.outgoing import AddressPolicy, Caps, Connector, OutgoingClient, Target, TlsPolicy
from homeserver.outgoing.connection import HttpConnection
from tests.federation.certificates import CertificateAuthority
from tests.federation.discovery.name_server import NameServer
from tests.outgoing.conftest import Serve
from tests.outgoing.servers import LOOPBACK, Link, Names, Script, Server, always, answer
from tests.reactor import reactor


class Ports:
    """Connects as the real one does, but finds what belongs on a privileged port on another."""

    def __init__(self, connector: Connector, ports: dict[int, int]) -> None:
        self._connector = connector
        self.ports = ports

    async def connect(self, target: Target, policy: AddressPolicy, key: Hashable) -> HttpConnection:
        there = target._replace(port=self.ports.get(target.port, target.port))
        return await self._connector.connect(there, policy, key)


class Net:
    """A network with one web server on port 443 and one Matrix server on port 8448."""

    def __init__(self, authority: CertificateAuthority, serve: Serve, name_server: NameServer) -> None:
        self.authority = authority
        self.names = Names({"example.org": ["127.0.0.1"], "m.example.net": ["127.0.0.1"]})
        self.name_server = name_server
        self.ports = Ports(
            Connector(reactor, resolver=self.names, tls=TlsPolicy(ca_file=authority.ca_file)), {}
        )
        self.client = OutgoingClient(
            reactor, connector=self.ports, policy=AddressPolicy(allow=LOOPBACK), user_agent="test"
        )
        self.discovery: ServerDiscovery = make_discovery(
            reactor, self.client, name_servers=lambda: [("127.0.0.1", name_server.port)]
        )
        self._serve = serve

    def web(self, script: Script) -> Server:
        """What answers for https://example.org/."""
        server = self._serve(script, self.authority.issue("example.org"))
        self.ports.ports[443] = server.port
        return server

    def matrix(self, *names: str, port: int = 8448) -> Server:
        """A Matrix server that proves these names."""
        server = self._serve(always(answer(b"matrix")), self.authority.issue(*names))
        self.ports.ports[port] = server.port
        return server

    async def ask(self, targets: Sequence[Target]) -> bytes:
        """The answer of the first target."""
        response = await self.client.request("GET", targets[0], "/", caps=Caps(max_size=100), purpose="test")
        return response.body


@pytest.fixture
def net(authority: CertificateAuthority, serve: Serve, name_server: NameServer) -> Net:
    return Net(authority, serve, name_server)


@pytest.fixture(autouse=True)
def _closed(net: Net) -> object:
    yield
    net.client.close()


def delegating(name: object) -> Script:
    return always(answer(json.dumps({"m.server": name}).encode(), Content_Type="text/plain"))


def redirecting(times: int, then: Script) -> Script:
    """A server that redirects so many times before it answers."""

    def script(link: Link, head: str) -> None:
        number = len(link.server.requests)
        if number > times:
            then(link, head)
        else:
            link.send(answer(b"", "302 Found", Location=f"/{number}"))

    return script


async def test_a_delegation_with_a_port(net: Net) -> None:
    """Step 3.2, and what is asked there is proven by the delegated name."""
    web = net.web(delegating("m.example.net:4433"))
    server = net.matrix("m.example.net", port=4433)
    resolution = await net.discovery.resolve("example.org")
    assert resolution.step is Step.DELEGATED_EXPLICIT_PORT
    assert await net.ask(resolution.targets) == b"matrix"
    assert "Host: m.example.net:4433" in server.requests[0][0]
    assert web.requests[0][0].startswith("GET /.well-known/matrix/server HTTP/1.1\r\nHost: example.org\r\n")


@pytest.mark.parametrize(("service", "step"), [("_matrix-fed._tcp", "3.3"), ("_matrix._tcp", "3.4")])
async def test_a_delegation_with_srv(net: Net, service: str, step: str) -> None:
    """Steps 3.3 and 3.4: connect where the record says, prove the delegated name."""
    net.web(delegating("m.example.net"))
    net.names.names["host.example"] = ["127.0.0.1"]
    net.name_server.records[f"{service}.m.example.net"] = [SrvRecord(0, 0, 4433, "host.example")]
    server = net.matrix("m.example.net", port=4433)
    resolution = await net.discovery.resolve("example.org")
    assert resolution.step is Step(step)
    assert await net.ask(resolution.targets) == b"matrix"
    assert "Host: m.example.net\r\n" in server.requests[0][0]


async def test_a_delegation_to_the_default_port(net: Net) -> None:
    """Step 3.5."""
    net.web(delegating("m.example.net"))
    net.matrix("m.example.net")
    resolution = await net.discovery.resolve("example.org")
    assert resolution.step is Step.DELEGATED_DEFAULT_PORT
    assert await net.ask(resolution.targets) == b"matrix"


@pytest.mark.parametrize(
    "script",
    [
        always(answer(b"", "404 Not Found")),
        always(answer(b"<html>")),
        delegating(7),
        delegating("not a name"),
        always(answer(b'{"m.server": "m.example.net:1"}'.ljust(51 * 1024))),  # too large
        always(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n"),
        always(answer(b"", "302 Found", Location="/.well-known/matrix/server")),
        redirecting(9, delegating("m.example.net:1")),
        always(answer(b"", "302 Found", Location="http://example.org/")),
        always(answer(b"", "302 Found", Location="https://10.0.0.1/")),
        lambda link, _head: link.drop(),
    ],
)
@pytest.mark.parametrize(("service", "step"), [("_matrix-fed._tcp", "4"), ("_matrix._tcp", "5"), (None, "6")])
async def test_advisory_06_what_is_no_document_is_passed_over(
    net: Net, script: Script, service: str | None, step: str
) -> None:
    """Steps 4, 5 and 6, after whatever a web server answers."""
    net.web(script)
    if service is not None:
        net.name_server.records[f"{service}.example.org"] = [SrvRecord(0, 0, 4433, "m.example.net")]
    server = net.matrix("example.org", port=8448 if service is None else 4433)
    resolution = await net.discovery.resolve("example.org")
    assert resolution.step is Step(step)
    assert resolution.well_known is not None
    assert resolution.well_known.problem is not None
    assert await net.ask(resolution.targets) == b"matrix"
    assert "Host: example.org\r\n" in server.requests[0][0]


async def test_redirects_to_the_document_are_followed(net: Net) -> None:
    """Five of them."""
    net.web(redirecting(5, delegating("m.example.net:4433")))
    assert (await net.discovery.resolve("example.org")).step is Step.DELEGATED_EXPLICIT_PORT


async def test_a_document_from_who_does_not_prove_its_name_does_not_count(net: Net, serve: Serve) -> None:
    """Or anybody on the way could delegate a server to himself."""
    forged = serve(delegating("m.example.net:4433"), net.authority.issue("other.example"))
    net.ports.ports[443] = forged.port
    assert (await net.discovery.resolve("example.org")).step is Step.DEFAULT_PORT
    assert forged.requests == []


async def test_a_name_server_that_fails_does_not_hide_a_server(net: Net) -> None:
    """The default port is tried; the certificate decides."""
    net.web(always(answer(b"", "404 Not Found")))
    net.name_server.records = {
        f"{service}.example.org": None for service in ("_matrix-fed._tcp", "_matrix._tcp")
    }
    net.matrix("example.org")
    resolution = await net.discovery.resolve("example.org")
    assert resolution.step is Step.DEFAULT_PORT
    assert [srv.problem is not None for _, srv in resolution.srv] == [True, True]


async def test_a_server_that_says_it_has_no_federation(net: Net) -> None:
    """Is believed."""
    net.web(always(answer(b"", "404 Not Found")))
    net.name_server.records["_matrix-fed._tcp.example.org"] = [SrvRecord(0, 0, 0, "")]
    with pytest.raises(DiscoveryFailed):
        await net.discovery.find("example.org")


@pytest.mark.parametrize("name", ["", "a b", "example.org:0", "a" * 300])
async def test_what_is_no_server_name(net: Net, name: str) -> None:
    """Asks nobody anything."""
    with pytest.raises(DiscoveryFailed):
        await net.discovery.find(name)
    net.discovery.doubt(name)
    assert net.names.asked == []


async def test_the_second_time_nobody_is_asked(net: Net) -> None:
    """Everything is kept."""
    web = net.web(delegating("m.example.net"))
    first = await net.discovery.find("example.org")
    before = (len(web.requests), len(net.name_server.asked))
    assert await net.discovery.find("example.org") == first
    assert (len(web.requests), len(net.name_server.asked)) == before
