# SPDX-License-Identifier: Apache-2.0
"""An answer of two parts is taken apart the same however it is cut on the way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.media.multipart import BadMultipart, TwoParts

TYPE = "multipart/mixed; boundary=bound"


def answer(body: bytes, *, headers: bytes = b"Content-Type: image/png\r\n", preamble: bytes = b"") -> bytes:
    return (
        preamble
        + b"--bound\r\nContent-Type: application/json\r\n\r\n{}\r\n--bound\r\n"
        + headers
        + b"\r\n"
        + body
        + b"\r\n--bound--\r\n"
    )


def taken_apart(data: bytes, cuts: list[int], content_type: str = TYPE) -> tuple[bytes, TwoParts]:
    got = bytearray()
    parts = TwoParts(content_type, got.extend)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(places):
        parts.feed(data[start:end])
    return bytes(got), parts


@given(
    st.one_of(st.binary(max_size=200), st.text("\r\n-bound", max_size=60).map(str.encode)),
    st.lists(st.integers(0, 10_000), max_size=20),
    st.sampled_from([b"", b"\r\n", b"to be ignored\r\n"]),
)
def test_any_body_cut_anywhere(body: bytes, cuts: list[int], preamble: bytes) -> None:
    if b"\r\n--bound" in b"\r\n" + body + b"\r\n--boun":
        return  # no server may choose that boundary for this body
    got, parts = taken_apart(answer(body, preamble=preamble), cuts)
    assert (got, parts.done) == (body, True)
    assert parts.headers == {"content-type": "image/png"}


def test_a_part_of_nothing() -> None:
    """Its headers' end may be the boundary's beginning."""
    data = b"--bound\r\n\r\n--bound\r\nLocation: https://cdn.example.org/1\r\n\r\n--bound--"
    got, parts = taken_apart(data, list(range(len(data))))
    assert (got, parts.done, parts.headers) == (b"", True, {"location": "https://cdn.example.org/1"})


@pytest.mark.parametrize(
    "given_type", ['multipart/mixed; boundary="bound"', "Multipart/Mixed;charset=x;  BOUNDARY=bound"]
)
def test_boundaries(given_type: str) -> None:
    assert taken_apart(answer(b"x"), [], given_type)[0] == b"x"


@pytest.mark.parametrize(
    "given_type", ["", "application/json", "multipart/mixed", "multipart/mixed; boundary="]
)
def test_answers_of_another_kind(given_type: str) -> None:
    with pytest.raises(BadMultipart):
        TwoParts(given_type, lambda _: None)


@pytest.mark.parametrize(
    "data",
    [
        b"--bound--\r\n\r\n",
        b"--boundless\r\n\r\nx",
        b"--bound\r\nno header\r\n\r\n{}\r\n--bound\r\n\r\nx",
        b"--bound\r\nA: " + b"a" * 20_000,
        b"x" * 100_000 + b"\r\n--bound\r\n",
        b"--bound\r\n\r\n" + b"x" * 100_000,
    ],
)
def test_what_makes_no_sense(data: bytes) -> None:
    with pytest.raises(BadMultipart):
        taken_apart(data, list(range(0, len(data), 1000)))


def test_what_is_cut_off_is_not_done() -> None:
    assert not taken_apart(answer(b"x")[:-12], [])[1].done
