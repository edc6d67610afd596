# SPDX-License-Identifier: Apache-2.0
"""However requests end, no place of the pool is lost and no bound passed."""

from __future__ import annotations

from random import Random

import pytest
from twisted.internet.defer import Deferred, DeferredList

from homeserver.outgoing import Caps, OutgoingClient
from homeserver.outgoing.pool import PoolLimits
from tests.federation.certificates import CertificateAuthority
from tests.outgoing.conftest import MakeClient, Serve
from tests.outgoing.servers import Link, Server, answer
from tests.reactor import reactor

LIMITS = PoolLimits(total=6, per_destination=3, waiting_per_destination=5, waiting=12, idle_per_destination=2)


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost(
    serve: Serve, make_client: MakeClient, authority: CertificateAuthority, seed: int
) -> None:
    """Answers, hang-ups, closings, silence, cancelling at any moment: in the end all places are free again."""
    random = Random(seed)

    def script(link: Link, _head: str) -> None:
        kind = random.randrange(6)
        if kind == 0:
            link.drop()
        elif kind == 1:
            link.send(answer(b"x", Connection="close"))
            link.end()
        elif kind == 2:
            link.send(answer(b"x")[:-1])
        elif kind == 3:
            reactor.callLater(random.random() / 50, send_late, link)
        else:
            link.send(answer(b"x"))

    leaf = authority.issue("127.0.0.1")
    servers = [serve(script, leaf if number % 2 else None) for number in range(4)]
    client = make_client(limits=LIMITS)
    asked = []
    for _ in range(150):
        asked.append(ask(client, random.choice(servers), random))
        if random.random() < 0.3:
            random.choice(asked).cancel()
        if random.random() < 0.5:
            await later(random.random() / 100)
        figures = client._pool.figures
        assert figures["open"] <= 6
        assert figures["waiting"] <= 12
        assert all(place.taken <= 3 for place in client._pool._places.values())
    await DeferredList(asked, consumeErrors=True)
    client.close()
    while client._pool.figures["open"]:
        await later(0.001)
    assert client._pool.figures == {"open": 0, "idle": 0, "waiting": 0}
    assert client._pool._places == {}
    assert client._pool._starved == {}


def send_late(link: Link) -> None:
    if not link.closed:
        link.send(answer(b"late"))


def ask(client: OutgoingClient, server: Server, random: Random) -> Deferred[object]:
    caps = Caps(max_size=100, timeout=0.5, stall=random.choice([0.05, 0.2]))
    target = server.target("127.0.0.1" if server.secure else None)
    return Deferred.fromCoroutine(
        client.request(random.choice(["GET", "POST"]), target, "/", caps=caps, purpose="test")
    )


async def later(seconds: float) -> None:
    """Let the reactor go on for a moment."""
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    await done
