# SPDX-License-Identifier: Apache-2.0
"""How many long-polls and WebSockets one user may have, over the wire: who is refused, who makes room, what is free
again. Tokens are names with a device.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred, gatherResults

from homeserver.clientapi.websocket.session import REPLACED
from storage.database import Database
from tests.clientapi.sync_site import PATH, Socket, SyncSite
from tests.reactor import accept_leftovers, reactor, run
from tests.web.loopback import Answer

SYNC = "/_matrix/client/v3/sync"
MOST = 100


@pytest.fixture
def site(database: Database) -> Iterator[SyncSite]:
    started = run(SyncSite.open(database))
    accept_leftovers()
    yield started
    run(started.stop())


async def sockets(site: SyncSite, count: int, since: str) -> list[Socket]:
    """Open ones of Alice's, each of a device of its own."""
    opening = [Deferred.fromCoroutine(site.socket(f"alice.D{n}", since=since)) for n in range(count)]
    opened: list[Socket] = await gatherResults(opening)
    for socket in opened:
        await socket.update(0)
    return opened


async def handshake(site: SyncSite, token: str, key: str = "dGhlIHNhbXBsZSBub25jZQ==") -> Answer:
    """What is answered instead of an upgrade."""
    connection = await site.connection()
    return await connection.request(
        "GET",
        f"{PATH}?access_token={token}",
        headers={
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
        },
    )


async def taken(site: SyncSite, count: int) -> None:
    """Wait until so many places are taken."""
    while len(site.house.engine.stream.listeners.places) != count:
        turn: Deferred[None] = Deferred()
        reactor.callLater(0.001, turn.callback, None)
        await turn


async def test_one_user_opens_no_more_than_a_hundred_websockets(site: SyncSite) -> None:
    """Who comes too late is told before the upgrade, and once one has gone is let in. Nobody else is concerned."""
    since = (await site.get(SYNC)).json["next_batch"]
    opened = await sockets(site, MOST, since)
    refused = await handshake(site, "alice.LATE")
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert refused.json["retry_after_ms"] > 0 and int(refused.headers["retry-after"]) > 0
    await (await site.socket("bob")).update(0)
    opened[0].drop()
    await taken(site, MOST)  # with Bob's
    await (await site.socket("alice.LATE")).update(0)
    assert all(socket.closed is None for socket in opened[1:])


async def test_polls_and_websockets_are_counted_together(site: SyncSite) -> None:
    """What has an answer at once is none of them."""
    since = (await site.get(SYNC)).json["next_batch"]
    await sockets(site, MOST, since)
    refused = await site.get(SYNC, "alice.LATE", since=since, timeout="30000")
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert int(refused.headers["retry-after"]) > 0
    assert (await site.get(SYNC, "alice.LATE", since=since)).status == 200
    assert (await site.get(SYNC, "alice.LATE", timeout="30000")).status == 200
    await site.house.create()
    assert (await site.get(SYNC, "alice.LATE", since=since, timeout="30000")).status == 200


async def test_the_oldest_of_a_device_makes_room(site: SyncSite) -> None:
    """A poll is answered, a WebSocket is closed with a code that says why."""
    since = (await site.get(SYNC)).json["next_batch"]
    poll = Deferred.fromCoroutine(site.get(SYNC, "alice.D0", since=since, timeout="30000"))
    await taken(site, 1)
    opened = await sockets(site, MOST - 1, since)
    newer = await site.socket("alice.D0", since=since)
    answer = await poll
    assert answer.status == 200 and answer.json["rooms"]["join"] == {}
    newest = Deferred.fromCoroutine(site.get(SYNC, "alice.D0", since=since, timeout="30000"))
    with pytest.raises(EOFError):
        await opened[0].until(lambda: newest.called)
    assert opened[0].closed is not None and opened[0].closed[0] == REPLACED
    await taken(site, MOST)
    assert not newest.called and newer.closed is None
    newest.cancel()
    await newest.addErrback(lambda _: None)


async def test_what_never_became_a_websocket_takes_no_place(site: SyncSite) -> None:
    assert (await site.get(PATH)).status == 426
    assert (await handshake(site, "alice", key="short")).status == 426
    await taken(site, 0)
