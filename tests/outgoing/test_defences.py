# SPDX-License-Identifier: Apache-2.0
"""What other machines may not do to this one: lead it astray, keep it waiting, fill it up, pose as somebody.

Regression tests of CVE-2021-21273, CVE-2021-21274, CVE-2021-21392, CVE-2024-52594 and CWE-409 of other homeservers.
"""

from __future__ import annotations

import gzip
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol

from homeserver.config.sections import PRIVATE_RANGES
from homeserver.outgoing import AddressPolicy, Caps, Target
from homeserver.outgoing.errors import (
    AddressDenied,
    BadRedirect,
    BadUrl,
    CertificateRefused,
    ConnectTimedOut,
    NameNotFound,
    OutgoingError,
    TimedOut,
    TlsFailed,
    TooLarge,
)
from homeserver.outgoing.names import SystemResolver
from tests.federation.certificates import CertificateAuthority
from tests.outgoing.conftest import MakeClient, Serve
from tests.outgoing.servers import Link, Names, always, answer
from tests.reactor import reactor

CAPS = Caps(max_size=10_000)
STRICT = AddressPolicy(deny=PRIVATE_RANGES)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"]
)
async def test_a_denied_address_is_not_connected_to(serve: Serve, make_client: MakeClient, host: str) -> None:
    """Written as an address, in any disguise."""
    server = serve(always(answer(b"")))
    client = make_client(policy=STRICT)
    with pytest.raises(AddressDenied):
        await client.fetch(f"http://{host}:{server.port}/", caps=CAPS, purpose="test")
    assert server.links == []
    assert client.metrics.count("test", "denied") == 1


async def test_a_name_with_a_denied_address_is_not_connected_to(
    serve: Serve, make_client: MakeClient
) -> None:
    """The answer of the name servers is judged, not the name."""
    server = serve(always(answer(b"")))
    client = make_client({"rebound.example": ["127.0.0.1", "::1", "::ffff:127.0.0.1"]}, policy=STRICT)
    with pytest.raises(AddressDenied):
        await client.fetch(f"http://rebound.example:{server.port}/", caps=CAPS, purpose="test")
    assert server.links == []


@pytest.mark.parametrize("name", ["localhost", "127.1", "2130706433", "0x7f.1", "0"])
async def test_the_system_is_not_tricked_either(make_client: MakeClient, name: str) -> None:
    """Names and old notations that the system's resolver knows lead to denied addresses or nowhere."""
    with pytest.raises((AddressDenied, NameNotFound)):
        client = make_client(SystemResolver(reactor), policy=STRICT)
        await client.fetch(f"http://{name}:1/", caps=CAPS, purpose="test")


async def test_the_judged_address_is_the_one_connected_to(serve: Serve, make_client: MakeClient) -> None:
    """A name that changes its answer between two questions gains nothing: there is one question."""
    server = serve(always(answer(b"")))

    class Rebinding(Names):
        async def addresses(self, host: str) -> list[str]:
            self.asked.append(host)
            return ["127.0.0.1"] if len(self.asked) == 1 else ["127.0.0.2"]

    names = Rebinding({})
    await make_client(names).fetch(f"http://name.example:{server.port}/", caps=CAPS, purpose="test")
    assert names.asked == ["name.example"]
    assert len(server.links) == 1


async def test_permitted_addresses_beside_denied_ones_are_used(serve: Serve, make_client: MakeClient) -> None:
    """Only the denied ones are left out."""
    server = serve(always(answer(b"ok")))
    client = make_client({"both.example": ["10.0.0.1", "127.0.0.1"]})
    response = await client.fetch(f"http://both.example:{server.port}/", caps=CAPS, purpose="test")
    assert response.body == b"ok"


async def test_advisory_07_and_24_a_redirect_to_a_denied_address_is_not_followed(
    serve: Serve, make_client: MakeClient
) -> None:
    """Each step is judged anew."""
    from ipaddress import ip_network

    policy = AddressPolicy(deny=PRIVATE_RANGES, allow=(ip_network("127.0.0.1/32"),))
    inner = serve(always(answer(b"secret")), None, "127.0.0.2")
    outer = serve(always(answer(b"", "302 Found", Location=f"http://127.0.0.2:{inner.port}/")))
    with pytest.raises(AddressDenied):
        await make_client(policy=policy).fetch(
            f"http://127.0.0.1:{outer.port}/", redirects=5, caps=CAPS, purpose="test"
        )
    assert inner.links == []


@pytest.mark.parametrize(
    "location", ["ftp://127.0.0.1/", "//:1/", "http://[::1", "file:///etc/passwd", "http://a@b/"]
)
async def test_a_redirect_to_nowhere(serve: Serve, make_client: MakeClient, location: str) -> None:
    """Other schemes, broken URLs and credentials in them."""
    server = serve(always(answer(b"", "302 Found", Location=location)))
    with pytest.raises(BadUrl):
        await make_client().fetch(f"http://127.0.0.1:{server.port}/", redirects=5, caps=CAPS, purpose="test")


async def test_a_redirect_does_not_leave_encryption(
    serve: Serve, make_client: MakeClient, authority: CertificateAuthority
) -> None:
    """What was asked for over https is not taken from http."""
    plain = serve(always(answer(b"forged")))
    secure = serve(
        always(answer(b"", "302 Found", Location=f"http://127.0.0.1:{plain.port}/")),
        authority.issue("127.0.0.1"),
    )
    with pytest.raises(BadRedirect):
        await make_client().fetch(f"https://127.0.0.1:{secure.port}/", redirects=5, caps=CAPS, purpose="test")
    assert plain.links == []


def dripping(first: bytes, drop: bytes, pause: float) -> object:
    """A script that sends a drop again and again for as long as anybody listens."""

    def script(link: Link, _head: str) -> None:
        def drip() -> None:
            if not link.closed:
                link.send(drop)
                reactor.callLater(pause, drip)

        link.send(first)
        drip()

    return script


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("script", "caps", "error"),
    [
        (always(b""), Caps(max_size=100, stall=0.2), TimedOut),
        (always(OK), Caps(max_size=100, stall=0.2), TimedOut),
        (always(OK + b"Content-Length: 9\r\n\r\nx"), Caps(max_size=100, stall=0.2), TimedOut),
        (dripping(OK, b"A: b\r\n", 0.05), Caps(max_size=100, timeout=0.4), TimedOut),
        (dripping(OK + b"\r\n", b"x", 0.05), Caps(max_size=100_000, timeout=0.4), TimedOut),
        (dripping(OK + b"\r\n", b"x" * 1000, 0.0), CAPS, TooLarge),
        (always(OK + b"Content-Length: 10001\r\n\r\n"), CAPS, TooLarge),
        (always(answer(gzip.compress(b"x" * 20_000), Content_Encoding="gzip")), CAPS, TooLarge),
    ],
    ids=["silence", "half-head", "half-body", "slow-head", "slow-body", "endless", "announced", "inflating"],
)
async def test_advisory_06_what_would_not_end_is_ended(
    serve: Serve, make_client: MakeClient, script: object, caps: Caps, error: type[OutgoingError]
) -> None:
    """And its connection with it."""
    server = serve(script)
    client = make_client()
    with pytest.raises(error):
        await client.request("GET", server.target(), "/", caps=caps, purpose="test")
    while any(not link.closed for link in server.links):  # there is none if the time was up before it came
        await turn()
    assert client._pool.figures == {"open": 0, "idle": 0, "waiting": 0}


async def test_advisory_32_a_compression_bomb_goes_off_small(serve: Serve, make_client: MakeClient) -> None:
    """However large an answer may be, what inflates a thousandfold is no answer."""
    bomb = answer(gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")
    server = serve(always(bomb))
    with pytest.raises(TooLarge, match="beyond measure"):
        await make_client().request(
            "GET", server.target(), "/", caps=Caps(max_size=100_000_000), purpose="test"
        )


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip"])
async def test_other_encodings_are_refused(serve: Serve, make_client: MakeClient, encoding: str) -> None:
    """Nobody asked for them."""
    server = serve(always(answer(b"x", Content_Encoding=encoding)))
    with pytest.raises(OutgoingError, match="encoding"):
        await make_client().request("GET", server.target(), "/", caps=CAPS, purpose="test")


async def test_certificates_prove_the_name_and_nothing_is_sent_before(
    serve: Serve,
    make_client: MakeClient,
    authority: CertificateAuthority,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Wrong name, wrong kind of name, expired, not valid yet, self-signed, or of an authority nobody trusts."""
    stranger = CertificateAuthority(tmp_path_factory.mktemp("stranger"))
    bad = {
        "not for": authority.issue("other.example"),
        "not for example": authority.issue("127.0.0.1"),
        "expired": authority.issue("example.org", starts=-3 * DAY, ends=-2 * DAY),
        "not valid yet": authority.issue("example.org", starts=2 * DAY, ends=3 * DAY),
        "self-signed": authority.self_signed("example.org"),
        "not trusted": stranger.issue("example.org"),
    }
    client = make_client()
    for words, leaf in bad.items():
        server = serve(always(answer(b"")), leaf)
        with pytest.raises(CertificateRefused, match=words):
            await client.request("GET", server.target("example.org"), "/", caps=CAPS, purpose="test")
        assert server.requests == []
    address = serve(always(answer(b"")), authority.issue("localhost"))
    with pytest.raises(CertificateRefused, match="not for 127"):
        await client.request("GET", address.target("127.0.0.1"), "/", caps=CAPS, purpose="test")


@pytest.mark.parametrize(
    ("names", "tls_name"),
    [
        (["example.org"], "example.org"),
        (["*.example.org"], "a.example.org"),
        (["127.0.0.1"], "127.0.0.1"),
        (["::1"], "::1"),
    ],
)
async def test_good_certificates_are_taken(
    serve: Serve, make_client: MakeClient, authority: CertificateAuthority, names: list[str], tls_name: str
) -> None:
    """For a name, a wildcard, an IPv4 and an IPv6 address; independent of the address connected to."""
    server = serve(always(answer(b"ok")), authority.issue(*names))
    response = await make_client().request("GET", server.target(tls_name), "/", caps=CAPS, purpose="test")
    assert response.body == b"ok"


async def test_without_verification_every_certificate_is_taken(
    serve: Serve, make_client: MakeClient, authority: CertificateAuthority
) -> None:
    """As `federation.verify_certificates: false` says."""
    server = serve(always(answer(b"ok")), authority.self_signed("whoever"))
    client = make_client(verify=False)
    response = await client.request("GET", server.target("example.org"), "/", caps=CAPS, purpose="test")
    assert response.body == b"ok"


async def test_a_handshake_that_stalls_is_ended(make_client: MakeClient) -> None:
    """A port that accepts and says nothing."""
    silent = Factory.forProtocol(Protocol)
    listening = reactor.listenTCP(0, silent, interface="127.0.0.1")
    client = make_client(connect_timeout=0.2)
    target = Target("127.0.0.1", listening.getHost().port, "127.0.0.1", "127.0.0.1")
    with pytest.raises(ConnectTimedOut):
        await client.request("GET", target, "/", caps=CAPS, purpose="test")
    await listening.stopListening()


async def test_what_is_not_tls_is_named(serve: Serve, make_client: MakeClient) -> None:
    """A plain server where TLS was expected."""
    server = serve(always(answer(b"")))
    server.buildProtocol = lambda _addr: Greeting()  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(TlsFailed):
        await make_client().request("GET", server.target("127.0.0.1"), "/", caps=CAPS, purpose="test")


class Greeting(Protocol):
    """Says something at once and hangs up."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(b"220 mail.example ESMTP\r\n")
        transport.loseConnection()


async def turn() -> None:
    """Let the reactor do what is due."""
    from twisted.internet.defer import Deferred

    done: Deferred[None] = Deferred()
    reactor.callLater(0, done.callback, None)
    await done
