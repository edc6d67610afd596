# SPDX-License-Identifier: Apache-2.0
"""What one address may take of the connections, and what all who do not read may take of the memory."""

from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from homeserver.web.addresses import ProxyTrust
from homeserver.web.crowding import Crowding, shed, unread_bytes
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route
from homeserver.web.site import MOST_BUFFERED
from tests.reactor import reactor
from tests.web.loopback import Loopback, request_bytes

LARGE = 32 * 2**20


def test_one_address_has_a_quarter_of_the_connections() -> None:
    """A household of IPv6 is one address; a proxy of ours speaks for many."""
    crowding = Crowding(ProxyTrust([ip_network("192.0.2.1")]), 40)
    for number in range(10):
        address = f"2001:db8::{number:x}"
        assert crowding.has_room(address, number)
        crowding.came(address)
    assert not crowding.has_room("2001:db8::ffff", 10)
    assert crowding.has_room("2001:db8:1::1", 10)
    for _ in range(20):
        crowding.came("192.0.2.1")
    assert crowding.has_room("192.0.2.1", 30)
    assert not crowding.has_room("192.0.2.1", 40)
    crowding.left("2001:db8::1")
    assert crowding.has_room("2001:db8::ffff", 29)


async def _large(_request: MatrixRequest) -> Reply:
    return JsonBytes(b'"' + b"x" * LARGE + b'"')


async def _here(_request: MatrixRequest) -> Reply:
    return {}


async def _turns(count: int) -> None:
    for _ in range(count):
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn


async def test_who_lets_most_wait_is_cut_off_first() -> None:
    """And only as many as need be."""
    server = Loopback(
        Route("GET", path, handler, under=ROOT, auth=Auth.NONE)
        for path, handler in (("/large", _large), ("/here", _here))
    )
    connections = server.open.site.connections
    one, two, reader = [await server.connect() for _ in range(3)]
    for each in (one, two):
        transport: Any = each.transport
        transport.pauseProducing()
        each.send(request_bytes("GET", "/large"))
    assert (await reader.request("GET", "/here")).status == 200
    while sorted(unread_bytes(each.transport) > 0 for each in connections) != [False, True, True]:
        await _turns(1)
    assert sum(unread_bytes(each.transport) for each in connections) <= 2 * (LARGE + 1000)
    shed(connections, 2 * LARGE)
    await _turns(50)
    assert len(connections) == 3
    for left in (2, 1):
        shed(connections, (left - 1) * LARGE)
        while len(connections) > left:
            await _turns(1)
    assert (await reader.request("GET", "/here")).status == 200
    await server.stop()


async def test_who_has_most_bodies_coming_in_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more would come in than may be held; they need not have said who they are."""
    monkeypatch.setattr("homeserver.web.crowding.HOARD", 1000)
    server = Loopback([Route("PUT", "/here", _here, under=ROOT, auth=Auth.NONE)])
    site = server.open.site

    def part(address: str, count: int) -> bytes:
        headers = {"X-Forwarded-For": address, "Content-Length": "2000"}
        return request_bytes("PUT", "/here", headers=headers) + bytes(count)

    ends = [await server.connect() for _ in range(4)]
    for end, address in zip(ends, ("192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.2"), strict=True):
        end.send(part(address, 900))
    while site.buffered < 3600:
        await _turns(1)
    site.buffered += MOST_BUFFERED - 3700
    polite = await server.request("PUT", "/here", body=bytes(1000), headers={"X-Forwarded-For": "192.0.2.3"})
    assert polite.status == 200
    while site.buffered > MOST_BUFFERED - 3700 + 1800:
        await _turns(1)
    while sum(bool(end.received) for end in ends) < 2:
        await _turns(1)
    refused = [end for end in ends if end.received]
    assert len(refused) == 2
    assert ends[0] not in refused
    assert [(await end.response()).status for end in refused] == [429, 429]
    ends[0].send(bytes(1100))
    assert (await ends[0].response()).status == 200
    site.buffered += 2800
    greedy = await server.connect()
    greedy.send(part("192.0.2.2", 101))  # of whom nobody has less
    assert (await greedy.response()).status == 429
    assert site.buffered == MOST_BUFFERED - 3700 + 2800 + 900
    site.buffered -= MOST_BUFFERED - 3700 + 2800
    await server.stop()
    assert site.buffered == 0
