# SPDX-License-Identifier: Apache-2.0
"""What is a request's head and what is a chunked body, and how pieces of them come together on a connection."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.web import heads
from homeserver.web.channel import Timeouts
from homeserver.web.chunks import BadChunks, Chunks
from homeserver.web.heads import BadHead, Fields, read_line
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route
from tests.web.loopback import Loopback, request_bytes


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"GET /a?b HTTP/1.1", ("GET", b"/a?b", True)),
        (b"BREW * HTTP/1.0", ("BREW", b"*", False)),
        (b"GET /\xc3\xa9", None),
        (b"GET / HTTP/1.1 ", None),
        (b"GET  / HTTP/1.1", None),
        (b"GET\t/ HTTP/1.1", None),
        (b"GE T / HTTP/1.1", None),
        (b"(GET) / HTTP/1.1", None),
        (b"GET  HTTP/1.1", None),
        (b"GET /\n HTTP/1.1", None),
        (b"GET /\x7f\x00 HTTP/1.1", None),
        (b"GET / http/1.1", None),
        (b"GET / HTTP/2.0", None),
        (b"", None),
    ],
)
def test_request_lines(line: bytes, read: object) -> None:
    if read is None:
        with pytest.raises(BadHead):
            read_line(line)
    else:
        assert read_line(line) == read


def test_fields_by_name() -> None:
    fields = Fields(
        b"Host: a\r\nX-Forwarded-For:  1\t\r\nx-forwarded-FOR: 2, 3\r\nEmpty:\r\nConnection: x, Close"
    )
    assert (fields.last(b"host"), fields.last(b"empty"), fields.last(b"none")) == (b"a", b"", None)
    assert list(fields.all(b"x-forwarded-for")) == [b"1", b"2, 3"]
    assert fields.tokens(b"x-forwarded-for") == {b"1", b"2", b"3"}
    assert (fields.length, fields.closes, fields.expects_continue) == (0, True, False)
    assert [name for name, _ in fields].count(b"x-forwarded-for") == 2


@pytest.mark.parametrize(
    ("block", "length"),
    [
        (b"", 0),
        (b"Content-Length: 12", 12),
        (b"Transfer-Encoding: Chunked", None),
        (b"Host: a\r\nTransfer-Encoding: chunked", None),
    ],
)
def test_lengths(block: bytes, length: int | None) -> None:
    assert Fields(block).length == length


@pytest.mark.parametrize(
    "block",
    [
        b"Content-Length: 1\r\nContent-Length: 1",
        b"Content-Length: 1, 1",
        b"Content-Length: +1",
        b"Content-Length: 1_0",
        b"Content-Length: \xd9\xa1",
        b"Content-Length:",
        b"Content-Length: " + b"9" * 19,
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: identity\r\nContent-Length: 3",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding:",
        b"Host: a\r\nHOST: a",
        b"Transfer-Encoding : chunked",
        b" Host: a",
        b"Host: a\r\n folded: b",
        b"Host: a\r\n\tb",
        b"Host: a\nContent-Length: 1",
        b"Host: a\rContent-Length: 1",
        b"Host: a\0",
        b": a",
        b"Host",
        b"Ho st: a",
        b"H\xc3\xb6st: a",
        b"\r\n".join([b"X: y"] * 101),
    ],
)
def test_fields_that_others_could_read_otherwise(block: bytes) -> None:
    with pytest.raises(BadHead):
        Fields(block)


def taken(raw: bytes, cuts: list[int]) -> tuple[bytes, bytes | None]:
    """What of these bytes, come in pieces, is body and what follows it."""
    chunks, content = Chunks(), b""
    places = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    for start, end in itertools.pairwise(places):
        part, rest = chunks.take(raw[start:end])
        content += part
        if rest is not None:
            return content, rest + raw[end:]
    return content, None


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    after=st.binary(max_size=9),
    cuts=st.lists(st.integers(1, 300), max_size=9),
)
def test_chunks_in_whatever_pieces(pieces: list[bytes], after: bytes, cuts: list[int]) -> None:
    coded = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    assert taken(coded + b"000\r\nTrailer: x\r\n\r\n" + after, cuts) == (b"".join(pieces), after)


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1 \r\n",
        b"1_0\r\n",
        b"1\nabc\r\n",
        b"1;\x00\r\n",
        b"1\r\nabc",
        b"1\r\na\n\r",
        b"f" * 16 + b"\r\n",
        b"1" * 2000,
        b"0\r\n" + b"a: b\r\n" * 2000,
        b"0\r\n" + b"a" * 9000,
        b"0\r\na: b\n\nGET / HTTP/1.1\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\na: b\r\n folded\r\n\r\n",
    ],
)
def test_what_is_no_chunk(raw: bytes) -> None:
    for cuts in ([], list(range(1, 40))):
        with pytest.raises(BadChunks):
            taken(raw, cuts)


async def who(request: MatrixRequest) -> Reply:
    requester = request.requester_or_none
    return {
        "user_id": None if requester is None else requester.user_id,
        "address": request.address,
        "length": len(request.content),
    }


ROUTES = (Route("PUT", "/who", who, under=ROOT, auth=Auth.OPTIONAL),)


async def test_fields_are_those_of_each_request() -> None:
    """Although they are not taken apart again where they are the same."""
    server = Loopback(ROUTES)
    connection = await server.connect()
    for token, address in (
        ("alice", "1.1.1.1"),
        ("alice", "1.1.1.1"),
        (None, "1.1.1.1"),
        ("alice", "2.2.2.2"),
    ):
        answer = await connection.request(
            "PUT", "/who", body=b"ab", token=token, headers={"X-Forwarded-For": address}
        )
        expected = None if token is None else "@alice:test"
        assert answer.json == {"user_id": expected, "address": address, "length": 2}
    await server.stop()


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: a\r\nContent-Length: 2\r\nContent-Length: 2",
        b"Host: a\r\ncontent-length: 2\r\nContent-Length: 3",
        b"Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
        b"Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3",
        b"Host: a\r\nContent-Length: 2\n\r\nX: y",
        b"Host: a\r\nContent-Length: 2, 2",
        b"Host: a\r\nContent-Length: 2\r\n folded: 3",
    ],
)
async def test_lengths_that_disagree_are_refused_after_good_ones(fields: bytes) -> None:
    """The length is looked at apart from the fields that are known already."""
    server = Loopback(ROUTES)
    connection = await server.connect()
    for body in (b"ab", b"abc", b""):
        good = b"PUT /who HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        connection.send(good)
        assert (await connection.response()).json["length"] == len(body)
    connection.send(b"PUT /who HTTP/1.1\r\n" + fields + b"\r\n\r\nabc")
    assert (await connection.response()).status == 400
    await server.stop()


async def test_a_host_is_named_once() -> None:
    """By who speaks HTTP/1.1 (RFC 9112 section 3.2), whatever was named by the request before."""
    server = Loopback(ROUTES, timeouts=Timeouts(linger=0.05, look=0.01))
    for raw, status in (
        (b"PUT /who HTTP/1.0\r\n\r\n", 200),
        (b"PUT /who HTTP/1.1\r\n\r\n", 400),
        (b"PUT /who HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nHost: b\r\n\r\n", 400),
        (b"PUT /who HTTP/1.1\r\nHost: a\r\n\r\nPUT /who HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
    ):
        connection = await server.connect()
        connection.send(raw)
        await connection.end()
        assert f"HTTP/1.1 {status} ".encode() in connection.received
    await server.stop()


def test_names_that_are_made_up_are_not_kept() -> None:
    """However long they are, and however many."""
    for number in range(2 * heads._MOST_NAMES):
        Fields(b"X-%d: a\r\n%b: b" % (number, b"x" * 1000 + b"%d" % number))
    assert len(heads._names) <= heads._MOST_NAMES
    assert max(map(len, heads._names)) <= heads._LONGEST_NAME
    Fields(b"User-Agent: a")
    assert heads._names[b"User-Agent"] == b"user-agent"


async def test_a_request_cut_anywhere() -> None:
    server = Loopback(ROUTES)
    connection = await server.connect()
    whole = b"\r\n" + request_bytes("PUT", "/who", body=b"abc")
    for cut in range(1, len(whole)):
        connection.send(whole[:cut])
        assert (await server.request("PUT", "/who", body=b"")).status == 200
        connection.send(whole[cut:] + whole)
        assert [(await connection.response()).json["length"] for _ in range(2)] == [3, 3]
    await server.stop()


async def test_very_many_requests_in_one_piece() -> None:
    server = Loopback(ROUTES)
    connection = await server.connect()
    connection.send(request_bytes("PUT", "/who") * 3000)
    assert [(await connection.response()).status for _ in range(3000)] == [200] * 3000
    await server.stop()
