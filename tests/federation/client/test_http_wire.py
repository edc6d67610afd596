# SPDX-License-Identifier: Apache-2.0
"""Requests over real connections: TLS, several places, and from our client to our own web server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from federation.client.availability import AlwaysAvailable
from federation.client.client import POLICY, FederationClient
from federation.client.errors import NotAsked, RemoteError, Unreachable
from federation.client.http_wire import HttpWire
from federation.client.metrics import ClientMetrics
from federation.discovery import DiscoveryBusy, DiscoveryFailed
from homeserver.config.sections import Federation
from homeserver.outgoing import OutgoingClient, Target, make_client
from storage.database import Database
from tests.federation.certificates import CertificateAuthority
from tests.federation.keys.world import KEY, US, World
from tests.federation.servers import Received, RemoteServer
from tests.federation.site import FederationSite
from tests.outgoing.servers import Link, Server, answer, closed_port
from tests.reactor import reactor

VERSION = ("v1", "version")


class Places:
    """Discovery that was told."""

    def __init__(self, **places: Sequence[Target]) -> None:
        self.places = dict(places)
        self.doubted: list[str] = []

    async def find(self, server_name: str) -> Sequence[Target]:
        if server_name == "busy.test":
            raise DiscoveryBusy("too much is looked up")
        if server_name == "slow.test":
            await Deferred()
        if server_name not in self.places:
            raise DiscoveryFailed("nowhere")
        return self.places[server_name]

    def doubt(self, server_name: str) -> None:
        self.doubted.append(server_name)


def plain(port: int) -> Target:
    """A place without TLS."""
    return Target("127.0.0.1", port, None, "hydra.test")


class Standstill:
    """The reactor, but time passes only when a test lets it."""

    def __init__(self) -> None:
        self.clock = Clock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.clock if name in ("callLater", "seconds") else reactor, name)


@asynccontextmanager
async def outgoing(ca_file: Path | None = None, *, by: Any = reactor) -> AsyncIterator[OutgoingClient]:
    """Our HTTP client, allowed to reach this machine."""
    client = make_client(
        by, Federation(ca_file=ca_file, deny_ip_ranges=(), allow_ip_ranges=(ip_network("127.0.0.0/8"),))
    )
    try:
        yield client
    finally:
        client.close()


def client_of(
    http: OutgoingClient, places: Places, server_name: str = US, *, by: Any = reactor
) -> FederationClient:
    """Our client on it."""
    return FederationClient(
        server_name=server_name,
        signing_key=KEY,
        wire=HttpWire(by, discovery=places, http=http),
        availability=AlwaysAvailable(),
        metrics=ClientMetrics(),
    )


async def test_over_tls(tmp_path: Path) -> None:
    """The certificate proves the name that discovery asks for, and the request arrives as it was signed."""
    authority = CertificateAuthority(tmp_path)
    leaf = authority.issue("hydra.test")
    hydra = RemoteServer("hydra.test")
    hydra.on("PUT", "/_matrix/federation/v1/send/{id}", lambda _request: {"pdus": {}})
    async with (
        hydra.listening(certificate=leaf.certificate, private_key=leaf.private_key) as port,
        outgoing(authority.ca_file) as http,
    ):
        places = Places(**{"hydra.test": [Target("127.0.0.1", port, "hydra.test", "hydra.test")]})
        client = client_of(http, places)
        assert await client.put("hydra.test", ("v1", "send", "t/1"), {"ä": 1}) == {"pdus": {}}
        hydra.received[0].check_signature("hydra.test", {KEY.key_id: KEY.verify_key})
        places.places["evil.test"] = [Target("127.0.0.1", port, "evil.test", "evil.test")]
        with pytest.raises(Unreachable):
            await client.get("evil.test", VERSION)
        assert len(hydra.received) == 1


async def test_the_next_place_is_tried_when_nobody_is_at_the_first() -> None:
    """And discovery is told when nobody is anywhere."""
    hydra = RemoteServer("hydra.test")
    hydra.on("GET", "/_matrix/federation/v1/version", lambda _request: {"n": 1})
    with closed_port() as closed:
        async with hydra.listening() as port, outgoing() as http:
            places = Places(**{"hydra.test": [plain(closed), plain(port)], "gone.test": [plain(closed)]})
            client = client_of(http, places)
            assert await client.get("hydra.test", VERSION) == {"n": 1}
            assert places.doubted == []
            for name in ("gone.test", "unknown.test"):
                with pytest.raises(Unreachable):
                    await client.get(name, VERSION)
            assert places.doubted == ["gone.test"]


async def test_a_request_that_was_taken_is_not_sent_to_the_next_place() -> None:
    """The server may have acted on it."""
    slow, second = RemoteServer("hydra.test"), RemoteServer("hydra.test")
    never: Deferred[None] = Deferred()

    async def wait(_request: Received) -> None:
        await never

    slow.on("PUT", "/_matrix/federation/v1/send/1", wait)
    time = Standstill()
    async with slow.listening() as one, second.listening() as two, outgoing(by=time) as http:
        client = client_of(http, Places(**{"hydra.test": [plain(one), plain(two)]}), by=time)
        sending = Deferred.fromCoroutine(client.put("hydra.test", ("v1", "send", "1"), {}, timeout=5))
        while not slow.received:
            await deferLater(reactor, 0)
        time.clock.advance(5)
        with pytest.raises(Unreachable):
            await sending
        assert (len(slow.received), second.received) == (1, [])


async def test_what_may_be_sent_twice_is_where_an_idle_connection_swallowed_it() -> None:
    """A policy server is asked by POST, and a sender waits."""

    def script(link: Link, _head: str) -> None:
        if link is server.links[0] and len(server.requests) > 1:
            link.drop()
        else:
            link.send(answer(b"{}"))

    server = Server(script)
    try:
        async with outgoing() as http:
            client = client_of(http, Places(**{"hydra.test": [server.target()]}))
            for _ in range(2):
                assert (
                    await client.post("hydra.test", ("v1", "sign"), {}, under=POLICY, repeatable=True) == {}
                )
            assert len(server.requests) == 3
            server.script = lambda link, _head: link.drop()
            with pytest.raises(Unreachable):
                await client.post("hydra.test", ("v1", "user", "keys", "claim"), {})
            assert len(server.requests) == 4
    finally:
        await server.stop()


async def test_a_server_is_not_blamed_for_what_is_too_much_on_this_side() -> None:
    """Neither where names are looked up nor where connections are made."""

    class Remembering(AlwaysAvailable):
        def failed(self, destination: str) -> None:
            failed.append(destination)

    failed: list[str] = []
    async with outgoing() as http:
        places = Places(**{"hydra.test": [plain(1)]})
        wire = HttpWire(reactor, discovery=places, http=http)
        client = FederationClient(
            server_name=US,
            signing_key=KEY,
            wire=wire,
            availability=Remembering(),
            metrics=ClientMetrics(),
        )
        http.close()
        for name in ("hydra.test", "busy.test"):
            with pytest.raises(NotAsked):
                await client.get(name, VERSION)
        assert (failed, places.doubted) == ([], [])
        with pytest.raises(Unreachable):
            await client.get("unknown.test", VERSION)
        assert failed == ["unknown.test"]


async def test_finding_takes_no_longer_than_the_request_may() -> None:
    """The time is for everything."""
    async with outgoing() as http:
        with pytest.raises(Unreachable):
            await client_of(http, Places()).get("slow.test", VERSION, timeout=0.1)


async def test_our_client_at_our_own_web_server(database: Database) -> None:
    """Both ways of the signature in one: what one of our servers signs, another lets in, and nothing else."""
    other = RemoteServer("other.test", key=KEY)
    site = FederationSite(World(database, other))
    async with outgoing() as http:
        places = Places(**{US: [plain(site.port)]})
        client = client_of(http, places, "other.test")
        body = {"a": [1, 2.5, {"é": None}], "wide": 2**63}
        answer = await client.put(US, ("v1", "echo", "$ev/é"), body, query={"v": ["1 2", "+"]})
        assert answer == {"origin": "other.test", "word": "$ev/é", "body": body}
        with pytest.raises(RemoteError) as caught:
            await client_of(http, places, "impostor.test").get(US, ("v1", "echo", "x"))
        assert (caught.value.status, caught.value.errcode) == (401, "M_UNAUTHORIZED")
    await site.stop()
