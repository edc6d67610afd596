# SPDX-License-Identifier: Apache-2.0
"""Connections that are slow, greedy, broken, cut off or many."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from homeserver.config import StartRefused
from homeserver.config.sections import Listener
from homeserver.web.channel import Timeouts
from homeserver.web.replies import Reply, Response
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route
from homeserver.web.site import MOST_BUFFERED, Site
from homeserver.web.sockets import open_socket
from tests.reactor import reactor, run
from tests.web.loopback import Loopback, request_bytes
from tests.web.test_upgrades import UPGRADE, socket

QUICK = Timeouts(headers=0.05, body_grace=0.05, body_rate=1e6, idle=0.05, unread=0.05, linger=0.05, look=0.01)


class Pending:
    """Handlers that wait until the test lets them go on, and what became of them."""

    def __init__(self) -> None:
        self.entered: Deferred[None] = Deferred()
        self.gate: Deferred[None] = Deferred()
        self.outcomes: list[str] = []
        self.ended: Deferred[None] = Deferred()

    async def handle(self, request: MatrixRequest) -> Reply:
        request.disconnected.subscribe(lambda: self.outcomes.append("disconnected"))
        self.entered.callback(None)
        try:
            await self.gate
        except CancelledError:
            self.outcomes.append("cancelled")
            raise
        else:
            self.outcomes.append("finished")
        finally:
            self.ended.callback(None)
        return {"waited": True}

    async def poll(self, request: MatrixRequest) -> Reply:
        """A long-poll that ends when the server does."""
        woken: Deferred[None] = Deferred()
        unsubscribe = request.shutting_down.subscribe(lambda: woken.callback(None))
        self.entered.callback(None)
        await woken
        unsubscribe()
        return {"stopping": True}


async def here(request: MatrixRequest) -> Reply:
    return {"bytes": len(request.content), "secure": request.secure}


async def large(_request: MatrixRequest) -> Reply:
    return Response(200, bytes(4_000_000), {"Content-Type": "application/octet-stream"})


def routes(pending: Pending) -> tuple[Route, ...]:
    return (
        Route("GET", "/large", large, under=ROOT, auth=Auth.NONE),
        Route("GET", "/here", here, under=ROOT, auth=Auth.NONE),
        Route("PUT", "/here", here, under=ROOT, auth=Auth.NONE, max_body=1000),
        Route("PUT", "/there", here, under=ROOT, auth=Auth.NONE),
        Route("GET", "/wait", pending.handle, under=ROOT, auth=Auth.NONE),
        Route("GET", "/read", pending.handle, under=ROOT, auth=Auth.NONE, abandon=True),
        Route("GET", "/poll", pending.poll, under=ROOT, auth=Auth.NONE),
        Route("GET", "/sync", pending.handle, under=ROOT, auth=Auth.NONE, limit="sync", abandon=True),
        Route("GET", "/socket", socket, under=ROOT),
    )


@pytest.fixture
def pending() -> Pending:
    return Pending()


@pytest.fixture
def server(pending: Pending) -> Iterator[Loopback]:
    loopback = Loopback(routes(pending), max_body=5000)
    yield loopback
    run(loopback.stop())


@pytest.fixture
def impatient(pending: Pending) -> Iterator[Loopback]:
    loopback = Loopback(routes(pending), timeouts=QUICK)
    yield loopback
    run(loopback.stop())


async def test_pipelined_requests_are_answered_in_order(server: Loopback, pending: Pending) -> None:
    connection = await server.connect()
    connection.send(request_bytes("GET", "/wait") + request_bytes("PUT", "/here", body=b"abc") * 3)
    await pending.entered
    pending.gate.callback(None)
    assert (await connection.response()).json == {"waited": True}
    assert [(await connection.response()).json["bytes"] for _ in range(3)] == [3, 3, 3]


async def test_who_does_not_read_is_not_answered_further(server: Loopback) -> None:
    """Pipelined requests wait for their turn, as the responses of all of them could be gigabytes."""
    connection = await server.connect()
    transport: Any = connection.transport
    transport.pauseProducing()
    connection.send(request_bytes("GET", "/large") * 40)
    for _ in range(5):
        assert (await server.request("GET", "/here")).status == 200
    assert 0 < server.lines.getvalue().count("route=/large") < 10
    transport.resumeProducing()
    assert [len((await connection.response()).raw) for _ in range(40)] == [4_000_000] * 40


async def test_who_sends_and_does_not_read_is_not_read_for_ever(server: Loopback) -> None:
    """Else what they send would be kept until memory ends."""
    connection = await server.connect()
    transport: Any = connection.transport
    transport.pauseProducing()
    connection.send(request_bytes("GET", "/large") + request_bytes("GET", "/here") * 200_000)
    await server.request("GET", "/here")
    while len(server.open.site.connections) != 1:  # of which that request had another for a moment
        await deferLater(reactor, 0)
    (channel,) = server.open.site.connections
    for _ in range(200):
        await server.request("GET", "/here")
        assert len(channel._held) < 200_000
    transport.resumeProducing()
    assert len((await connection.response()).raw) == 4_000_000
    assert [(await connection.response()).status for _ in range(1000)] == [200] * 1000


async def test_a_stop_does_not_wait_for_requests_behind_an_unread_response(server: Loopback) -> None:
    connection = await server.connect()
    connection.send(request_bytes("GET", "/large") * 40)
    await connection.until(lambda: bool(connection.received))
    stopped = Deferred.fromCoroutine(server.server.stop(grace=30))
    await connection.end()
    await stopped
    assert server.lines.getvalue().count("route=/large") < 40


async def test_a_request_in_single_bytes(server: Loopback) -> None:
    connection = await server.connect()
    for byte in request_bytes("PUT", "/here", body=b"abc"):
        connection.send(bytes([byte]))
    assert (await connection.response()).json["bytes"] == 3


async def test_a_body_too_long_is_refused_before_it_comes(server: Loopback) -> None:
    connection = await server.connect()
    head = {"Content-Length": "1001", "Expect": "100-continue"}
    refused = await connection.request("PUT", "/here", headers=head)
    assert (refused.status, refused.errcode, refused.headers["connection"]) == (413, "M_TOO_LARGE", "close")
    assert "access-control-allow-origin" in refused.headers
    assert (await server.request("PUT", "/here", body=b"x" * 1000)).json["bytes"] == 1000
    # The route's limit, else the listener's, and little for a path that is not there.
    assert (await server.request("PUT", "/there", body=b"x" * 5000)).status == 200
    assert (await server.request("PUT", "/there", body=b"x" * 5001)).status == 413
    assert (await server.request("PUT", "/nowhere", headers={"Content-Length": "10000000"})).status == 413


async def test_the_refusal_arrives_although_the_client_keeps_sending(server: Loopback) -> None:
    connection = await server.connect()
    connection.send(request_bytes("PUT", "/here", headers={"Content-Length": "3000000"}) + b"x" * 3_000_000)
    assert (await connection.response()).status == 413


async def test_expecting_clients_are_told_to_continue(server: Loopback) -> None:
    connection = await server.connect()
    connection.send(request_bytes("PUT", "/here", headers={"Content-Length": "3", "Expect": "100-continue"}))
    await connection.until(lambda: connection.received.startswith(b"HTTP/1.1 100"))
    connection.send(b"abc")
    assert (await connection.response()).json["bytes"] == 3


async def test_chunked_bodies_are_counted(server: Loopback) -> None:
    chunked = {"Transfer-Encoding": "chunked"}
    connection = await server.connect()
    connection.send(request_bytes("PUT", "/here", headers=chunked) + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert (await connection.response()).json["bytes"] == 5
    connection.send(request_bytes("PUT", "/here", headers=chunked) + b"200\r\n" + b"x" * 512 + b"\r\n")
    connection.send(b"200\r\n" + b"x" * 512 + b"\r\n")
    assert (await connection.response()).status == 413


async def test_a_body_in_the_smallest_chunks(server: Loopback) -> None:
    connection = await server.connect()
    chunks = b"2\r\nab\r\n" * 400 + b"0\r\n\r\n"
    connection.send(request_bytes("PUT", "/here", headers={"Transfer-Encoding": "chunked"}) + chunks)
    assert (await connection.response()).json["bytes"] == 800


async def test_all_bodies_together_are_bounded(server: Loopback) -> None:
    """Whatever becomes of a request, its body is counted no longer than it is held."""
    site = server.open.site
    ends = [await server.connect() for _ in range(4)]
    for connection in ends[:2]:
        connection.send(request_bytes("PUT", "/here", headers={"Content-Length": "900"}) + b"x" * 800)
    ends[2].send(request_bytes("PUT", "/here", headers={"Transfer-Encoding": "chunked"}) + b"5\r\nabcdezz")
    assert (await ends[2].response()).status == 400
    assert (
        await ends[3].request("GET", "/socket", body=b"x" * 10, headers=UPGRADE, token="alice")
    ).status == 101
    await server.request("PUT", "/here", body=b"x" * 1000)
    while site.buffered < 1600:  # what the first two have sent may arrive later
        await server.request("GET", "/here")
    assert site.buffered == 1600
    site.buffered += MOST_BUFFERED - 2000
    assert (await server.request("PUT", "/here", body=b"x" * 400)).status == 200
    busy = await server.request("PUT", "/here", body=b"x" * 401)
    assert (busy.status, busy.errcode) == (429, "M_LIMIT_EXCEEDED")
    site.buffered -= MOST_BUFFERED - 2000
    ends[0].send(b"x" * 100)
    assert (await ends[0].response()).status == 200
    ends[1].drop()
    while site.buffered:
        await server.request("GET", "/here")
    assert site.buffered == 0


async def test_how_much_a_request_may_bring() -> None:
    """Little where nobody is logged in, a server's transaction where servers ask, else something between."""

    def limit(site: Site, **wishes: Any) -> int:
        return site.body_limit(Route("PUT", "/x", here, **wishes))

    large, small = Loopback((), max_body=8_000_000), Loopback((), max_body=1000)
    site = large.open.site
    assert limit(site, auth=Auth.NONE) == limit(site, auth=Auth.NONE, resource="admin") == 65_536
    assert limit(site) == limit(site, auth=Auth.OPTIONAL) == 2 * 1024 * 1024
    assert limit(site, auth=Auth.SERVER, resource="federation") == 8_000_000
    assert limit(site, auth=Auth.NONE, resource="federation") == 65_536
    assert limit(site, auth=Auth.NONE, max_body=3_000_000) == 3_000_000
    assert limit(small.open.site) == limit(small.open.site, resource="federation") == 1000
    await large.stop()
    await small.stop()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /here HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"GET /here HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /here HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT /here HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"PUT /here HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"PUT /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"PUT /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /here HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /here HTTP/1.1\r\nHost: a\r\n" + b"X: aaaaaaaa\r\n" * 200 + b"\r\n", 400),
        (b"GET /here HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"a" * 9_000 + b"\r\n") * 9 + b"\r\n", 400),
    ],
)
async def test_bytes_that_are_no_http_are_refused_in_json(server: Loopback, raw: bytes, status: int) -> None:
    connection = await server.connect()
    connection.send(raw)
    answer = await connection.response()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.errcode in {"M_UNRECOGNIZED", "M_TOO_LARGE"}
    assert "access-control-allow-origin" in answer.headers


@pytest.mark.parametrize(
    "line",
    [
        b"GET /\xc3\xa9",
        b"GET /\x80",
        b"GET /\x7f",
        b"GET /here?q=\xc3\xa9",
        b"GET /here?q=\xb0",
        b"G\xc3\x8bT /here",
    ],
)
async def test_a_request_line_is_ascii(server: Loopback, line: bytes) -> None:
    """What is beyond comes encoded; raw, each server would read it in its own way, or say that it is at fault."""
    connection = await server.connect()
    connection.send(line + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = await connection.response()
    assert (answer.status, answer.headers["connection"], answer.errcode) == (400, "close", "M_UNRECOGNIZED")


@pytest.mark.parametrize("value", ["café".encode(), b"caf\xe9", b"\x80\xff"])
async def test_the_value_of_a_field_may_be_anything(server: Loopback, value: bytes) -> None:
    """As far as lines go; its name is ASCII."""
    connection = await server.connect()
    for name in (
        b"User-Agent",
        b"X-Forwarded-For",
        b"Cookie",
        b"Authorization",
        b"Accept-Encoding",
        b"Range",
    ):
        connection.send(b"GET /here HTTP/1.1\r\nHost: a\r\n" + name + b": " + value + b"\r\n\r\n")
        assert (await connection.response()).status == 200, name
    connection.send(b"GET /here HTTP/1.1\r\nHost: a\r\n" + value + b": x\r\n\r\n")
    assert (await connection.response()).status == 400


async def test_old_clients_and_proxies_forms(server: Loopback) -> None:
    connection = await server.connect()
    connection.send(b"GET http://localhost/here HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await connection.response()).status == 200
    connection.send(b"GET /here HTTP/1.0\r\n\r\n")
    assert (await connection.response()).headers["connection"] == "close"
    await connection.end()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET /he",
        b"GET /here HTTP/1.1\r\nHost: x\r\n",
        b"PUT /here HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
        b"PUT /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        request_bytes("GET", "/here"),
        request_bytes("PUT", "/here", headers={"Content-Length": "2000"}),
    ],
    ids=["nothing", "line", "headers", "body", "chunks", "idle", "refused"],
)
async def test_a_client_that_stops_is_left(impatient: Loopback, raw: bytes) -> None:
    connection = await impatient.connect()
    connection.send(raw)
    await connection.end()


async def test_a_request_may_take_longer_than_any_pause() -> None:
    """Where this process stood still before the request or its answer was read, that was the pause: then once more."""
    for _ in range(20):
        pending = Pending()
        impatient = Loopback(routes(pending), timeouts=QUICK)
        pending.entered.addCallback(lambda _, gate: reactor.callLater(0.2, gate.callback, None), pending.gate)
        connection = await impatient.connect()
        connection.send(request_bytes("GET", "/wait"))
        try:
            answer = await connection.response()
        except EOFError:
            continue
        finally:
            if pending.entered.called:
                await pending.ended
            await impatient.stop()
        assert (answer.status, answer.json) == (200, {"waited": True})
        return
    raise AssertionError("it was never answered")


async def test_a_read_is_cancelled_when_its_client_goes(server: Loopback, pending: Pending) -> None:
    connection = await server.connect()
    connection.send(request_bytes("GET", "/read"))
    await pending.entered
    connection.drop()
    await pending.ended
    await deferLater(reactor, 0)
    assert pending.outcomes == ["disconnected", "cancelled"]
    assert "status=499" in server.lines.getvalue()


async def end_is_here(server: Loopback) -> None:
    """Wait until the server knows that its only client sends no more."""
    while not all(channel._ended for channel in server.open.site.connections):
        await deferLater(reactor, 0)


@pytest.mark.parametrize(
    ("behind", "others"),
    [
        (b"", 0),
        (request_bytes("PUT", "/here", body=b"abc") * 2, 2),
        (request_bytes("PUT", "/here", body=b"abc") + request_bytes("GET", "/here")[:-3], 1),
        (request_bytes("PUT", "/here", headers={"Content-Length": "4"}), 0),
    ],
    ids=["one", "pipelined", "half a head", "no body"],
)
async def test_who_only_sends_no_more_is_answered(
    server: Loopback, pending: Pending, behind: bytes, others: int
) -> None:
    """All that was asked in full, of what changes something and of what does not."""
    connection = await server.connect()
    connection.send(request_bytes("GET", "/read") + behind)
    connection.end_sending()
    await pending.entered
    await end_is_here(server)
    pending.gate.callback(None)
    assert (await connection.response()).json == {"waited": True}
    assert [(await connection.response()).json["bytes"] for _ in range(others)] == [3] * others
    await connection.end()
    assert (connection.received, pending.outcomes) == (b"", ["finished"])


async def test_who_only_sends_no_more_gets_all_of_a_long_answer(server: Loopback) -> None:
    connection = await server.connect()
    transport: Any = connection.transport
    transport.pauseProducing()
    connection.send(request_bytes("GET", "/large"))
    connection.end_sending()
    await end_is_here(server)
    transport.resumeProducing()
    assert len((await connection.response()).raw) == 4_000_000
    await connection.end()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET /here HTTP/1.1\r\nHost: x\r\n",
        b"PUT /here HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
        request_bytes("GET", "/sync?since=s1&timeout=30000"),
    ],
    ids=["nothing", "head", "body", "poll"],
)
async def test_an_end_before_anything_was_asked_is_the_end(
    server: Loopback, pending: Pending, raw: bytes
) -> None:
    """So it is of a long-poll: of most, all of the connection was closed."""
    connection = await server.connect()
    connection.send(raw)
    if b"sync" in raw:
        await pending.entered
    connection.end_sending()
    await connection.end()
    assert connection.received == b""
    if b"sync" in raw:
        await pending.ended
        assert pending.outcomes == ["disconnected", "cancelled"]


async def test_other_work_goes_on_and_is_told(server: Loopback, pending: Pending) -> None:
    connection = await server.connect()
    connection.send(request_bytes("GET", "/wait"))
    await pending.entered
    connection.drop()
    gone: Deferred[None] = Deferred()
    (exchange,) = server.open.site.running
    exchange.disconnected.subscribe(lambda: gone.callback(None))
    await gone
    pending.gate.callback(None)
    assert pending.outcomes == ["disconnected", "finished"]
    assert "status=499" in server.lines.getvalue()
    assert server.metrics.in_flight == 0


async def test_no_more_connections_than_allowed(pending: Pending) -> None:
    server = Loopback(routes(pending), max_connections=2)
    kept = [await server.connect() for _ in range(2)]
    assert [(await each.request("GET", "/here")).status for each in kept] == [200, 200]
    third = await server.connect()
    await third.end()
    assert (await kept[0].request("GET", "/here")).status == 200
    await server.stop()


async def test_what_a_stop_cuts_off_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """However it fails then: what it stands on is gone."""
    waiting = Pending()
    server = Loopback((Route("GET", "/wait", waiting.handle, under=ROOT, auth=Auth.NONE),))
    connection = await server.connect()
    connection.send(request_bytes("GET", "/wait"))
    await waiting.entered
    await server.server.stop(0.0)
    await connection.end()
    waiting.gate.errback(RuntimeError("the database is closed"))
    assert "status=499" in server.lines.getvalue()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_stopping_lets_polls_return_and_work_finish() -> None:
    polling, waiting = Pending(), Pending()
    server = Loopback(
        (
            Route("GET", "/poll", polling.poll, under=ROOT, auth=Auth.NONE),
            Route("GET", "/wait", waiting.handle, under=ROOT, auth=Auth.NONE),
        )
    )
    idle, first, second = [await server.connect() for _ in range(3)]
    first.send(request_bytes("GET", "/poll"))
    second.send(request_bytes("GET", "/wait"))
    await polling.entered
    await waiting.entered
    stopped = Deferred.fromCoroutine(server.server.stop(30.0))
    answer = await first.response()
    assert (answer.json, answer.headers["connection"]) == ({"stopping": True}, "close")
    await idle.end()
    assert not stopped.called
    waiting.gate.callback(None)
    assert (await second.response()).json == {"waited": True}
    await stopped
    assert server.server.open == []


async def test_stopping_does_not_wait_for_ever(pending: Pending) -> None:
    server = Loopback(routes(pending))
    connection = await server.connect()
    connection.send(request_bytes("GET", "/wait"))
    await pending.entered
    await server.server.stop(0.05)
    await connection.end()
    pending.gate.callback(None)


async def test_stopping_does_not_wait_for_what_only_trickles_in(pending: Pending) -> None:
    """A request being answered keeps its whole grace; one that has only begun does not use it up."""
    server = Loopback(routes(pending))
    working, slow = await server.connect(), await server.connect()
    working.send(request_bytes("GET", "/wait"))
    slow.send(b"PUT /here HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
    await pending.entered
    stopped = Deferred.fromCoroutine(server.server.stop(3600.0))
    await slow.end()
    assert not stopped.called
    pending.gate.callback(None)
    assert (await working.response()).json == {"waited": True}
    await stopped


async def test_a_port_in_use_is_refused_clearly(server: Loopback) -> None:
    with pytest.raises(StartRefused, match=f"cannot listen on 127.0.0.1 port {server.port}: Address already"):
        server.server.listen(Listener(port=server.port))


async def test_processes_share_a_socket(pending: Pending) -> None:
    with open_socket(Listener(port=0)) as shared:
        port = shared.getsockname()[1]
        servers = [Loopback(routes(pending), listener=Listener(port=port), shared=shared) for _ in range(2)]
        assert {server.port for server in servers} == {port}
        # Whichever of them accepts, it answers; when one is gone, the other goes on.
        assert (await servers[0].request("GET", "/here")).status == 200
        await servers[0].stop()
        assert (await servers[1].request("GET", "/here")).status == 200
        await servers[1].stop()


def test_an_address_that_is_not_ours_is_refused_clearly(server: Loopback) -> None:
    with pytest.raises(StartRefused, match=re.escape("cannot listen on 192.0.2.1 port 0: Cannot assign")):
        server.server.listen(Listener(bind="192.0.2.1", port=0))


def test_a_limit_nobody_knows_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="there is no rate limit 'mesages'"):
        Loopback((Route("GET", "/x", here, limit="mesages"),))
