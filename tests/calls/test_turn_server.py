# SPDX-License-Identifier: Apache-2.0
"""A real coturn, configured as docs/calls.md has it, and the credentials this server gives: calls through it, whom it
refuses, and where it leads nobody.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from aioice.stun import TransactionFailed
from aioice.turn import create_turn_endpoint

from homeserver.calls.media import examining
from homeserver.calls.media.examining import allocate
from homeserver.calls.turn import TurnCredentials
from tests.calls.conftest import Town
from tests.calls.lines import PATIENCE, lines
from tests.calls.media_peer import COLOURS, MediaPeer
from tests.calls.phone import Phone
from tests.calls.turnserver import SECRET, Coturn
from tests.waiting import wait_until


def test_a_call_that_may_only_go_through_the_relay(town: Town) -> None:
    """Both sides offer nothing but the relay, with what `/voip/turnServer` gave each of them."""

    async def scenario() -> None:
        alice, bob = town.person("alice"), town.person("bob")
        room_id = town.chat(alice, bob)
        caller, callee = town.line(alice), town.line(bob)
        async with lines(caller, callee):
            phones = []
            for line, hertz, colour in ((caller, 440, COLOURS[0]), (callee, 880, COLOURS[1])):
                login = await line.call("GET", "voip/turnServer")
                peer = MediaPeer(hertz=hertz, colour=colour, ice=login, relay_only=True)
                phones.append(Phone(line, room_id, peer))
            near, far = phones
            try:
                await asyncio.gather(near.place(), far.pick_up())
                await asyncio.gather(
                    *(near.peer.hears(880), near.peer.sees(COLOURS[1])),
                    *(far.peer.hears(440), far.peer.sees(COLOURS[0])),
                )
                assert near.peer.path() == far.peer.path() == ("relay", "relay")
            finally:
                await asyncio.gather(near.put_down(), far.put_down())

    asyncio.run(scenario())


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_it_takes_our_credentials_and_no_others(
    turn: Coturn, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each way: an address for ours; none for a wrong password, another's secret, or what has expired."""
    monkeypatch.setenv("SSL_CERT_FILE", str(turn.ca_file))
    monkeypatch.setattr(examining, "ALLOCATING", PATIENCE)
    uri = turn.uris[transport]
    ours = TurnCredentials(uris=(uri,), lifetime=3600, secret=SECRET)
    now = time.time()
    login, expired = ours.for_user("@a:localhost", now), ours.for_user("@a:localhost", now - 7200)
    forged = TurnCredentials(uris=(uri,), lifetime=3600, secret="another secret").for_user(
        "@a:localhost", now
    )

    async def scenario() -> None:
        for username, password in (
            (login.username, "wrong"),
            (expired.username, expired.password),
            (forged.username, forged.password),
            (f"{int(now) + 9999}:@a:localhost", login.password),
        ):
            refused = await allocate(uri, username, password)
            assert (refused["error"], refused["detail"]) == ("refused", "401 Unauthorized")
        found = await allocate(uri, login.username, login.password)
        assert found["relayed"].startswith("127.0.0.1:"), found
        assert found["reflexive"].startswith("127.0.0.1:"), found

    asyncio.run(scenario())


def test_every_line_of_the_page_is_understood(turn: Coturn) -> None:
    """What coturn does not know it says, and goes on without."""
    wait_until(lambda: turn.said("Relay ports initialization done"), "coturn said that it is ready")
    assert not (turn.said("Bad configuration format") or turn.said("Wrong address format"))


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "10.1.2.3", "100.64.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1", "224.0.0.1"],
)
def test_it_leads_nobody_into_its_own_network(turn: Coturn, address: str) -> None:
    """By the ranges of the page."""
    ours = TurnCredentials(uris=(turn.uris["udp"],), lifetime=3600, secret=SECRET)
    login = ours.for_user("@a:localhost", time.time())

    async def scenario() -> None:
        refused: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

        class Told(asyncio.DatagramProtocol):
            def error_received(self, exc: Exception) -> None:
                refused.set_result(exc)

        endpoint, _ = await create_turn_endpoint(
            Told, ("127.0.0.1", turn.port), login.username, login.password
        )
        try:
            endpoint.sendto(b"hello", (address, 5000))
            error = await asyncio.wait_for(refused, PATIENCE)
        finally:
            endpoint.close()
        assert isinstance(error, TransactionFailed)
        assert error.response.attributes["ERROR-CODE"][0] == 403

    asyncio.run(scenario())
