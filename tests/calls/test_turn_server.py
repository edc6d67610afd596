# SPDX-License-Identifier: Apache-2.0
"""A real coturn and the credentials this server gives: calls through it, and whom it refuses."""

from __future__ import annotations

import asyncio
import time

import pytest

from homeserver.calls.media.examining import allocate
from homeserver.calls.turn import TurnCredentials
from tests.calls.conftest import Town
from tests.calls.lines import lines
from tests.calls.media_peer import COLOURS, MediaPeer
from tests.calls.phone import Phone
from tests.calls.turnserver import SECRET, Coturn


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
