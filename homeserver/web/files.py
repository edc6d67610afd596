# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 (Twisted's names)
"""Files as responses: which part of one was asked for, and sending it as fast as the client reads.

Owns ranges (RFC 9110 section 14, one range at a time; several are answered with the whole, as the section allows),
validators, and the stream. Files are read by threads, a piece at a time: a cold disk may take its time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from homeserver.web.heads import Fields
from homeserver.web.replies import FileReply

if TYPE_CHECKING:
    from homeserver.web.channel import Channel
    from homeserver.web.signals import Signal

_PIECE: Final = 256 * 1024
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Part(Struct, frozen=True):
    """What of a file is sent, and how: `length` 0 with a status other than 200 or 206 is no body at all."""

    status: int
    start: int
    length: int
    headers: Mapping[str, str]


def part_of(reply: FileReply, wanted: str | None, known: str | None, unless: str | None) -> Part:
    """What to send for the headers `Range`, `If-None-Match` and `If-Range`."""
    headers = dict(reply.headers)
    if reply.etag is not None:
        headers["ETag"] = reply.etag
        if known is not None and (known.strip() == "*" or reply.etag in known):
            return Part(304, 0, 0, headers)
    if reply.before or reply.after:  # one part of several: its bytes have no place of their own
        return Part(200, 0, reply.size, headers)
    headers["Accept-Ranges"] = "bytes"
    found = None if wanted is None else _RANGE.fullmatch(wanted.strip())
    if found is None or not (found[1] or found[2]) or (unless is not None and unless.strip() != reply.etag):
        return Part(200, 0, reply.size, headers)
    if found[1]:
        start, end = int(found[1]), min(int(found[2]) if found[2] else reply.size - 1, reply.size - 1)
    else:
        start, end = max(0, reply.size - int(found[2])), reply.size - 1
    if start > end:
        headers["Content-Range"] = f"bytes */{reply.size}"
        return Part(416, 0, 0, headers)
    headers["Content-Range"] = f"bytes {start}-{end}/{reply.size}"
    return Part(206, start, end - start + 1, headers)


async def open_at(path: Path, start: int) -> BinaryIO:
    """The file, to be read from `start` on. Raises OSError."""

    def opening() -> BinaryIO:
        file = path.open("rb")
        file.seek(start)
        return file

    return await deferToThread(opening)


class FileStream:
    """Sends a file to a connection; a push producer, which the connection pauses while its client does not read."""

    def __init__(self, channel: Channel, file: BinaryIO, length: int, gone: Signal) -> None:
        self._channel = channel
        self._file = file
        self._left = length
        self._gone = gone
        self._may_go_on: Deferred[None] | None = None

    async def run(self) -> bool:
        """Whether all was sent: the client may go away, and the file be shorter than it was."""
        end_watch = self._gone.subscribe(self.resumeProducing)
        self._channel.feed_from(self)
        try:
            while self._left and not self._gone.fired:
                if self._may_go_on is not None:
                    await self._may_go_on
                    continue
                # Only now: a piece in hand would be memory that nobody sees who looks for what clients leave unread.
                data: bytes = await deferToThread(self._file.read, min(self._left, _PIECE))
                if not data:
                    return False
                self._left -= len(data)
                if not self._gone.fired:
                    self._channel.is_read()
                    self._channel.transport.write(data)
            return not self._left and not self._gone.fired
        finally:
            end_watch()
            self._channel.feed_from(None)
            await deferToThread(self._file.close)

    # From the connection

    def pauseProducing(self) -> None:
        if self._may_go_on is None:
            self._may_go_on = Deferred()

    def resumeProducing(self) -> None:
        waiting, self._may_go_on = self._may_go_on, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        self.resumeProducing()


def header(fields: Fields, name: bytes) -> str | None:
    """The last field of that name, which is given in lower case, if any."""
    value = fields.last(name)
    return None if value is None else value.decode("latin-1")
