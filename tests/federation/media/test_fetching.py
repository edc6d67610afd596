# SPDX-License-Identifier: Apache-2.0
"""Fetching from a server that answers well, by an older request, from somewhere else, badly, or too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from federation.client.errors import Unreachable
from federation.media.fetching import FederatedMedia
from homeserver.errors import (
    LimitExceeded,
    MatrixError,
    NotFound,
    NotYetUploaded,
    RemoteServerFailed,
    RemoteTooLarge,
)
from homeserver.media.remote import Fetched
from homeserver.outgoing import Caps, OutgoingError, ResponseHead, Sink
from homeserver.spooling import Spool, SpoolRoom
from tests.federation.servers import make_key

MOST = 1000
TWO_PARTS = {"content-type": "multipart/mixed; boundary=b"}
SIGNED = "/_matrix/federation/v1/media/download/abc?timeout_ms=5"
UNSIGNED = "/_matrix/media/v3/download/far.test/abc?allow_remote=false&allow_redirect=true&timeout_ms=5"


@dataclass
class Told:
    """An answer."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] | None = None
    breaks_off: bool = False


class Far:
    """A server, and the rest of the web."""

    def __init__(self) -> None:
        self.answers: dict[str, Told | Exception] = {}
        self.asked: list[str] = []
        self.signed: list[bool] = []
        self.failures = 0

    def may_try(self, destination: str) -> bool:
        return True

    def failed(self, destination: str) -> None:
        self.failures += 1

    def succeeded(self, destination: str) -> None:
        self.failures = 0

    async def stream(
        self, destination: str, target: str, sink: Sink, *, headers: Any, **_: Any
    ) -> ResponseHead:
        assert destination == "far.test"
        return self._answer(target, sink, "Authorization" in headers)

    async def stream_url(self, url: str, sink: Sink, *, caps: Caps, purpose: str) -> ResponseHead:
        return self._answer(url, sink, False)

    def _answer(self, target: str, sink: Sink, signed: bool) -> ResponseHead:
        self.asked.append(target)
        self.signed.append(signed)
        told = self.answers[target]
        if isinstance(told, Exception):
            raise told
        head = ResponseHead(told.status, told.headers or {}, len(told.body))
        sink.begin(head, self)
        for at in range(0, len(told.body), 7):
            sink.write(told.body[at : at + 7])
        if told.breaks_off:
            raise Unreachable("far.test", "too slow")
        return head

    def pause(self) -> None:
        """Nothing is slower than this."""

    def resume(self) -> None:
        """Nothing was paused."""


@pytest.fixture
def far() -> Far:
    return Far()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = SpoolRoom(tmp_path).open(MOST)
    yield opened
    opened.discard()


async def fetch(far: Far, spool: Spool) -> Fetched:
    media = FederatedMedia(
        server_name="near.test",
        signing_key=make_key("near"),
        wire=far,
        http=far,
        availability=far,
        max_size=MOST,
    )
    return await media.fetch("far.test", "abc", spool, timeout_ms=5)


def two_parts(headers: str, body: bytes = b"") -> Told:
    told = f"--b\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--b\r\n{headers}\r\n\r\n".encode() + body
    return Told(told + b"\r\n--b--", headers=TWO_PARTS)


def error(status: int, errcode: str) -> Told:
    return Told(orjson.dumps({"errcode": errcode, "error": "no"}), status)


async def test_as_it_should_be(far: Far, spool: Spool) -> None:
    far.answers[SIGNED] = two_parts(
        "Content-Type: text/plain\r\nContent-Disposition: inline; filename=a.txt", b"words"
    )
    assert await fetch(far, spool) == Fetched("text/plain", "a.txt")
    assert (spool.size, far.signed) == (5, [True])


async def test_a_server_that_knows_only_the_older_request(far: Far, spool: Spool) -> None:
    """Which gets no signature of ours."""
    far.answers[SIGNED] = error(404, "M_UNRECOGNIZED")
    far.answers[UNSIGNED] = Told(b"words", headers={"content-type": "text/plain"})
    assert await fetch(far, spool) == Fetched("text/plain", None)
    assert (spool.size, far.signed) == (5, [True, False])


async def test_media_kept_elsewhere(far: Far, spool: Spool) -> None:
    far.answers[SIGNED] = two_parts("Location: https://cdn.test/1")
    far.answers["https://cdn.test/1"] = Told(status=307, headers={"location": "https://cdn.test/2"})
    far.answers["https://cdn.test/2"] = Told(b"words", headers={"content-type": "image/png"})
    assert await fetch(far, spool) == Fetched("image/png", None)
    assert far.signed == [True, False, False]


@pytest.mark.parametrize(
    "place", ["http://cdn.test/1", "file:///etc/passwd", "//cdn.test", "https://cdn.test/0"]
)
async def test_advisory_24_media_kept_nowhere(far: Far, spool: Spool, place: str) -> None:
    """Not without encryption, not from a file, and not round in a circle."""
    far.answers[SIGNED] = two_parts(f"Location: {place}")
    far.answers["https://cdn.test/0"] = Told(status=302, headers={"location": "https://cdn.test/0"})
    with pytest.raises(RemoteServerFailed):
        await fetch(far, spool)
    assert len(far.asked) <= 4


REFUSALS: list[tuple[Callable[[], Told | Exception], type[MatrixError]]] = [
    (lambda: error(404, "M_NOT_FOUND"), NotFound),
    (lambda: error(504, "M_NOT_YET_UPLOADED"), NotYetUploaded),
    (lambda: error(502, "M_TOO_LARGE"), RemoteTooLarge),
    (lambda: error(429, "M_LIMIT_EXCEEDED"), LimitExceeded),
    (lambda: error(500, "M_UNKNOWN"), RemoteServerFailed),
    (lambda: Told(b"<html>", 403), RemoteServerFailed),
    (lambda: Told(b"no parts"), RemoteServerFailed),
    (lambda: Told(two_parts("A: b", b"x").body[:-3], headers=TWO_PARTS), RemoteServerFailed),
    (lambda: two_parts("A: b", bytes(MOST + 1)), RemoteTooLarge),
    (lambda: Unreachable("far.test", "away"), RemoteServerFailed),
]  # fmt: skip


@pytest.mark.parametrize(("told", "refusal"), REFUSALS, ids=range(len(REFUSALS)))
async def test_refusals(
    far: Far, spool: Spool, told: Callable[[], Told | Exception], refusal: type[MatrixError]
) -> None:
    far.answers[SIGNED] = told()
    with pytest.raises(refusal) as raised:
        await fetch(far, spool)
    assert type(raised.value) is refusal
    assert far.failures == (1 if isinstance(far.answers[SIGNED], Unreachable) else 0)


@pytest.mark.parametrize("signed", [True, False])
async def test_a_file_that_takes_too_long_says_nothing_of_its_server(
    far: Far, spool: Spool, signed: bool
) -> None:
    """Else one large file, which anybody may ask for, would hold up everything else that goes there."""
    slow = Told(two_parts("A: b", b"words").body[:-8], headers=TWO_PARTS, breaks_off=True)
    far.answers[SIGNED] = slow if signed else error(404, "M_UNRECOGNIZED")
    far.answers[UNSIGNED] = slow
    with pytest.raises(RemoteServerFailed):
        await fetch(far, spool)
    assert far.failures == 0


async def test_nor_does_the_place_where_it_keeps_its_files(far: Far, spool: Spool) -> None:
    far.answers[SIGNED] = two_parts("Location: https://cdn.test/1")
    far.answers["https://cdn.test/1"] = OutgoingError("nobody is there")
    with pytest.raises(RemoteServerFailed):
        await fetch(far, spool)
    assert far.failures == 0
