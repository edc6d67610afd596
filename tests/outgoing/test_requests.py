# SPDX-License-Identifier: Apache-2.0
"""What a request brings back, and that connections are used again."""

from __future__ import annotations

import gzip

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from homeserver.outgoing import Caps, Connector, Flow, ResponseHead, Target
from homeserver.outgoing.errors import BadRedirect, BadUrl, ConnectFailed, ConnectionBroken, Overloaded
from homeserver.outgoing.pool import PoolLimits
from tests.federation.certificates import CertificateAuthority
from tests.outgoing.conftest import MakeClient, Serve
from tests.outgoing.servers import Link, always, answer, closed_port
from tests.reactor import reactor

CAPS = Caps(max_size=100_000)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
)


async def test_a_request_arrives_as_it_was_meant(serve: Serve, make_client: MakeClient) -> None:
    """Method, path, host, headers and body go out; status, headers and body come back."""
    server = serve(always(answer(b"hello", "201 Created", X_One="1")))
    response = await make_client().request(
        "PUT",
        server.target(host="127.0.0.1"),
        "/a?b=c",
        headers={"X-Two": "2"},
        body=b"{}",
        caps=CAPS,
        purpose="test",
    )
    assert (response.status, response.headers["x-one"], response.body) == (201, "1", b"hello")
    head, body = server.requests[0]
    assert head.split("\r\n")[:2] == ["PUT /a?b=c HTTP/1.1", "Host: 127.0.0.1"]
    assert "X-Two: 2" in head
    assert "Content-Length: 2" in head
    assert body == b"{}"


@pytest.mark.parametrize(
    ("data", "closes", "body"),
    [
        (CHUNKED, False, b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"x"), False, b"x"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, b""),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", True, b"until the end"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", True, b"old"),
        (answer(gzip.compress(b"packed" * 1000), Content_Encoding="gzip"), False, b"packed" * 1000),
    ],
)
async def test_every_way_a_body_ends(
    serve: Serve, make_client: MakeClient, data: bytes, closes: bool, body: bytes
) -> None:
    """By length, by chunks, by the connection's end; byte by byte or all at once."""

    def script(link: Link, head: str) -> None:
        if "/slowly" not in head:
            link.send(data)
            if closes:
                link.end()
            return
        pieces = [data[at : at + 7] for at in range(0, len(data), 7)]

        def step() -> None:
            if pieces:
                link.send(pieces.pop(0))
                reactor.callLater(0, step)
            elif closes:
                link.end()

        step()

    server = serve(script)
    client = make_client()
    for path in ("/", "/slowly", "/"):
        response = await client.request("GET", server.target(), path, caps=CAPS, purpose="test")
        assert response.body == body
    assert len(server.links) == (3 if closes else 1)


async def test_a_connection_is_used_again_over_tls(
    serve: Serve, make_client: MakeClient, authority: CertificateAuthority
) -> None:
    """One handshake for many requests, whatever their Host header."""
    server = serve(always(answer(b"")), authority.issue("example.org"))
    client = make_client({"server.example.org": ["127.0.0.1"]})
    for _ in range(3):
        target = server.target("example.org", host="server.example.org")
        await client.request("GET", target, "/", caps=CAPS, purpose="test")
    assert len(server.links) == 1
    assert client.metrics.count("test", "2xx") == 3


async def test_a_new_connection_resumes_the_session(
    serve: Serve, make_client: MakeClient, authority: CertificateAuthority
) -> None:
    """The second handshake costs neither side a signature."""
    reused: list[bool] = []

    def script(link: Link, _head: str) -> None:
        transport = link.transport
        handle = transport.getHandle()  # type: ignore[union-attr]
        from OpenSSL.SSL import _lib  # type: ignore[attr-defined]

        reused.append(bool(_lib.SSL_session_reused(handle._ssl)))
        link.send(answer(b"", Connection="close"))
        link.end()

    server = serve(script, authority.issue("127.0.0.1"))
    client = make_client()
    for _ in range(2):
        await client.request("GET", server.target("127.0.0.1"), "/", caps=CAPS, purpose="test")
    assert reused == [False, True]


async def test_another_name_is_another_connection(
    serve: Serve, make_client: MakeClient, authority: CertificateAuthority
) -> None:
    """What was proven for one name is not taken for another at the same address."""
    server = serve(always(answer(b"")), authority.issue("one.example", "two.example"))
    client = make_client({})
    for name in ("one.example", "two.example"):
        await client.request("GET", server.target(name), "/", caps=CAPS, purpose="test")
    assert len(server.links) == 2


async def test_a_request_swallowed_by_an_ending_connection_is_sent_again(
    serve: Serve, make_client: MakeClient
) -> None:
    """If the other side hangs up on an idle connection just then; but never what must not be repeated."""

    def script(link: Link, head: str) -> None:
        if len([each for each in server.requests if each[0] == head]) % 2 == 0 and link is server.links[0]:
            link.drop()
        else:
            link.send(answer(b"ok"))

    server = serve(script)
    client = make_client()
    for _ in range(2):
        response = await client.request("GET", server.target(), "/", caps=CAPS, purpose="test")
        assert response.body == b"ok"
    assert len(server.links) == 2
    server.script = lambda link, _head: link.drop()
    with pytest.raises(ConnectionBroken):
        await client.request("POST", server.target(), "/", body=b"", caps=CAPS, purpose="test")
    assert len(server.links) == 2


async def test_the_next_address_is_tried(serve: Serve, make_client: MakeClient) -> None:
    """One dead address of several costs nothing but time."""
    server = serve(always(answer(b"here")))
    client = make_client({"example.org": ["::1", "127.0.0.1"]})
    response = await client.request("GET", server.target(host="example.org"), "/", caps=CAPS, purpose="test")
    assert response.body == b"here"


async def test_an_address_that_failed_is_not_waited_for_again(serve: Serve, make_client: MakeClient) -> None:
    """It stands behind the others of its host for a while."""
    server = serve(always(answer(b"here", Connection="close")))
    client = make_client({"example.org": ["127.0.0.2", "127.0.0.1"]})
    connector = client._pool._connector
    assert isinstance(connector, Connector)
    for expected in (["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]):
        assert connector._in_order(["127.0.0.2", "127.0.0.1"], server.port) == expected
        await client.request("GET", server.target(host="example.org"), "/", caps=CAPS, purpose="test")


async def test_nobody_there(make_client: MakeClient) -> None:
    """A closed port is named as such."""
    with closed_port() as port, pytest.raises(ConnectFailed):
        await make_client().request(
            "GET", Target("127.0.0.1", port, None, "127.0.0.1"), "/", caps=CAPS, purpose="test"
        )


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/ HTTP/1.1\r\nX: y", {}), ("nothing", {}), ("/", {"X": "a\r\nb: c"}), ("/", {"X: y": ""})],
)
async def test_nothing_breaks_out_of_its_place(
    serve: Serve, make_client: MakeClient, path: str, headers: dict[str, str]
) -> None:
    """A path or header that would become another header is refused before anything is sent."""
    server = serve(always(answer(b"")))
    with pytest.raises(BadUrl):
        await make_client().request("GET", server.target(), path, headers=headers, caps=CAPS, purpose="test")
    assert server.links == []


async def test_connections_per_destination_are_bounded(serve: Serve, make_client: MakeClient) -> None:
    """The rest waits, in order; and of those who wait there are not more than so many."""
    held: list[Link] = []
    server = serve(lambda link, _head: held.append(link))
    limits = PoolLimits(per_destination=2, waiting_per_destination=1)
    client = make_client(limits=limits)

    def ask(path: str) -> Deferred[object]:
        return Deferred.fromCoroutine(client.request("GET", server.target(), path, caps=CAPS, purpose="test"))

    asked = [ask(f"/{number}") for number in range(4)]
    with pytest.raises(Overloaded):
        await asked.pop()
    while len(held) < 2:
        await turn()
    assert len(server.requests) == 2
    while any(not each.called for each in asked):
        for link in held:
            link.send(answer(b""))
        held.clear()
        await turn()
    assert len(server.links) == 2
    assert server.requests[-1][0].startswith("GET /2")


async def test_connections_in_total_are_bounded(serve: Serve, make_client: MakeClient) -> None:
    """An idle connection makes room, and who waits for the total gets its turn."""
    servers = [serve(always(answer(b""))) for _ in range(4)]
    client = make_client(limits=PoolLimits(total=2))
    for _ in range(2):
        asked = [
            Deferred.fromCoroutine(client.request("GET", server.target(), "/", caps=CAPS, purpose="test"))
            for server in servers
        ]
        await gatherResults(asked)
    assert client._pool.figures["open"] <= 2
    assert client._pool.figures["waiting"] == 0
    assert client._pool._starved == {}


async def test_redirects_are_followed_and_secrets_stay(serve: Serve, make_client: MakeClient) -> None:
    """As many as wished; a credential is not carried to another place."""
    there = serve(always(answer(b"there")))
    here = serve(always(answer(b"", "302 Found", Location=f"http://127.0.0.1:{there.port}/x")))
    response = await make_client().fetch(
        f"http://127.0.0.1:{here.port}/",
        headers={"Authorization": "secret"},
        redirects=1,
        caps=CAPS,
        purpose="test",
    )
    assert response.body == b"there"
    assert response.url == f"http://127.0.0.1:{there.port}/x"
    assert "secret" in here.requests[0][0]
    assert "secret" not in there.requests[0][0]


@pytest.mark.parametrize("circle", [True, False])
async def test_endless_redirects_end(serve: Serve, make_client: MakeClient, circle: bool) -> None:
    """In a circle or ever onward."""

    def script(link: Link, _head: str) -> None:
        location = "/" if circle else f"/{len(link.server.requests)}"
        link.send(answer(b"", "301 Moved", Location=location))

    server = serve(script)
    with pytest.raises(BadRedirect):
        await make_client().fetch(f"http://127.0.0.1:{server.port}/", redirects=5, caps=CAPS, purpose="test")
    assert len(server.requests) <= 6


async def test_cancelling_frees_everything(serve: Serve, make_client: MakeClient) -> None:
    """A request that was under way, and one that waited for it."""
    server = serve(lambda _link, _head: None)
    client = make_client(limits=PoolLimits(per_destination=1))
    asked = [
        Deferred.fromCoroutine(client.request("GET", server.target(), "/", caps=CAPS, purpose="test"))
        for _ in range(2)
    ]
    while not server.requests:
        await turn()
    for each in reversed(asked):
        each.cancel()
    for each in asked:
        with pytest.raises(CancelledError):
            await each
    while client._pool.figures["open"]:
        await turn()
    assert client._pool.figures == {"open": 0, "idle": 0, "waiting": 0}
    assert client._pool._places == {}
    assert client.metrics.count("test", "cancelled") == 2


class Counting:
    """A sink that pauses after each piece and goes on in the next turn."""

    def __init__(self) -> None:
        self.length = 0

    def begin(self, head: ResponseHead, flow: Flow) -> None:
        self.flow = flow

    def write(self, data: bytes) -> None:
        self.length += len(data)
        self.flow.pause()
        reactor.callLater(0, self.flow.resume)


async def test_a_body_streams_into_a_sink(
    serve: Serve, make_client: MakeClient, authority: CertificateAuthority
) -> None:
    """Piece by piece, as fast as the sink takes it, and the connection is fit for use afterwards."""
    server = serve(always(answer(b"x" * 1_000_000)), authority.issue("127.0.0.1"))
    client = make_client()
    for _ in range(2):
        sink = Counting()
        head = await client.stream(
            server.target("127.0.0.1"), "/", sink, caps=Caps(max_size=1_000_000), purpose="test"
        )
        assert (head.status, sink.length) == (200, 1_000_000)
    assert len(server.links) == 1


async def test_a_large_request_arrives(
    serve: Serve, make_client: MakeClient, authority: CertificateAuthority
) -> None:
    """In pieces, over TCP and TLS."""
    body = bytes(range(256)) * 4096
    for leaf in (None, authority.issue("127.0.0.1")):
        server = serve(always(answer(b"")), leaf)
        client = make_client()
        for _ in range(2):
            target = server.target(None if leaf is None else "127.0.0.1")
            await client.request("PUT", target, "/", body=body, caps=CAPS, purpose="test")
        assert [received for _, received in server.requests] == [body, body]
        assert len(server.links) == 1


async def turn() -> None:
    """Let the reactor do what is due."""
    done: Deferred[None] = Deferred()
    reactor.callLater(0, done.callback, None)
    await done
