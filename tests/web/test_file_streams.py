# SPDX-License-Identifier: Apache-2.0
"""How much of a file is in memory while its client does not read."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from homeserver.web import files
from homeserver.web.files import FileStream
from homeserver.web.signals import Signal

CONTENT = bytes(range(256)) * 4096


class Client:
    """A connection as a stream has it, whose client reads nothing of what is written until it is told to."""

    def __init__(self) -> None:
        self.transport = self
        self.written = b""
        self.stream: FileStream | None = None

    def feed_from(self, stream: FileStream | None) -> None:
        self.stream = stream

    def is_read(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.written += data
        assert self.stream is not None
        self.stream.pauseProducing()

    def reads_on(self) -> None:
        assert self.stream is not None
        self.stream.resumeProducing()


@pytest.fixture(autouse=True)
def threads_are_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return succeed(call(*arguments))

    monkeypatch.setattr(files, "deferToThread", at_once)


def test_nothing_is_read_that_may_not_be_sent() -> None:
    """A piece in hand would be counted by nobody, while what is written and not read is."""
    client, file = Client(), BytesIO(CONTENT)
    done = Deferred.fromCoroutine(FileStream(client, file, len(CONTENT), Signal()).run())  # type: ignore[arg-type]
    pieces = 0
    while not done.called:
        assert file.tell() == len(client.written)
        client.reads_on()
        pieces += 1
    assert pieces > 2 and client.written == CONTENT and file.closed
    assert done.result is True


def test_who_goes_away_unread_is_let_go() -> None:
    client, file, gone = Client(), BytesIO(CONTENT), Signal()
    done = Deferred.fromCoroutine(FileStream(client, file, len(CONTENT), gone).run())  # type: ignore[arg-type]
    sent = len(client.written)
    gone.fire()
    assert done.called and done.result is False
    assert 0 < sent == len(client.written) < len(CONTENT) and file.closed and client.stream is None
