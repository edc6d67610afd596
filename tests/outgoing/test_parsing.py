# SPDX-License-Identifier: Apache-2.0
"""What is not a response, and what is too much of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.outgoing.errors import BadResponse, ConnectionBroken, OutgoingError
from homeserver.outgoing.parsing import MAX_FRAMING, MAX_HEAD_BYTES, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        OK + b"No colon\r\n\r\n",
        OK + b"A: b\r\n folded\r\n\r\n",
        OK + b"A : b\r\n\r\n",
        OK + b"A: b\x00\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED + b"x\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"3\r\nabcd\r\n",
        CHUNKED + b"9" * 2000,
        CHUNKED + b"0\r\n" + b"A: b\r\n" * MAX_HEAD_BYTES,
        OK + b"A: " + b"b" * MAX_HEAD_BYTES,
        OK + b"A: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_HEAD_BYTES,
        CHUNKED + b"1\r\na\r\n" * MAX_FRAMING,
    ],
    ids=lambda data: repr(data[:60]),
)
def test_refused(data: bytes) -> None:
    """Nonsense, another protocol, and what would keep us reading."""
    with pytest.raises(BadResponse):
        for _ in ResponseParser("GET").feed(data):
            pass


@pytest.mark.parametrize("data", [b"", OK, OK + b"Content-Length: 3\r\n\r\nab", CHUNKED + b"3\r\nabc\r\n"])
def test_an_early_end_is_no_answer(data: bytes) -> None:
    """Half an answer is never taken for a whole one."""
    parser = ResponseParser("GET")
    for _ in parser.feed(data):
        pass
    with pytest.raises(ConnectionBroken) as raised:
        parser.end(cleanly=True)
    assert raised.value.answered is bool(data)


def test_a_cut_off_body_without_length_is_no_answer() -> None:
    """Its end must be a clean one, or anybody on the way could shorten it."""
    parser = ResponseParser("GET")
    assert list(parser.feed(OK + b"\r\nab")) == [b"ab"]
    with pytest.raises(ConnectionBroken):
        parser.end(cleanly=False)


def test_what_talks_out_of_turn_is_not_used_again() -> None:
    """Bytes behind the answer would be taken for the next one's."""
    parser = ResponseParser("GET")
    assert list(parser.feed(OK + b"Content-Length: 1\r\n\r\nabc")) == [b"a"]
    assert parser.done
    assert not parser.reusable


@given(st.binary(max_size=300), st.integers(1, 20))
def test_any_bytes_end_in_an_answer_or_an_error(data: bytes, step: int) -> None:
    """Nothing else is raised, however the bytes are cut."""
    parser = ResponseParser("GET")
    try:
        for at in range(0, len(data), step):
            for _ in parser.feed(data[at : at + step]):
                pass
        parser.end(cleanly=True)
    except OutgoingError:
        return
    assert parser.done


@given(st.binary(max_size=200), st.integers(1, 40), st.integers(1, 40))
def test_chunks_come_out_as_they_went_in(body: bytes, size: int, step: int) -> None:
    """Whatever the chunks and the pieces they arrive in."""
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    data = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    parser = ResponseParser("GET")
    pieces = [piece for at in range(0, len(data), step) for piece in parser.feed(data[at : at + step])]
    assert b"".join(pieces) == body
    assert parser.done
    assert parser.reusable
