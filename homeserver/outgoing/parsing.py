# SPDX-License-Identifier: Apache-2.0
"""Reading HTTP/1.1 responses: bytes in, head and body out, with a bound on everything.

Owns the grammar (RFC 9112) as strictly as servers in the wild allow. Does no I/O, knows no time, and keeps none of the
body. What does not end is ended by who feeds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Final

from msgspec import Struct

from homeserver.outgoing.errors import BadResponse, ConnectionBroken

#: Bytes of a response's head, of all its interim responses together, and of the trailers behind a chunked body.
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_FIELDS: Final = 256
#: By how much chunk headers may outweigh what they carry, so that nobody keeps us busy with chunks of one byte.
MAX_FRAMING: Final = 1 << 20

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\x00\r\n]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\x00\r\n]*)?")
_CHUNK_LINE: Final = 1024


class ResponseHead(Struct, frozen=True):
    """Status and headers. Names are in lower case; fields that came several times are joined by a comma."""

    status: int
    headers: Mapping[str, str]
    length: int | None
    """Bytes of body announced, None if the end will show."""


class _Part(Enum):
    HEAD = auto()
    LENGTH = auto()
    CHUNK_LINE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    UNTIL_CLOSE = auto()
    DONE = auto()


class ResponseParser:
    """One response. `feed` it until `done`; `head` is there once it was read."""

    __slots__ = ("_bodyless", "_buffer", "_framing", "_head_bytes", "_left", "_part", "head", "reusable")

    def __init__(self, method: str) -> None:
        self._bodyless = method == "HEAD"
        self._buffer = b""
        self._part = _Part.HEAD
        self._left = 0
        self._head_bytes = 0
        self._framing = 0
        self.head: ResponseHead | None = None
        self.reusable = False
        """Whether the connection may carry another request, once the response is done."""

    @property
    def done(self) -> bool:
        """Whether the response is complete."""
        return self._part is _Part.DONE

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what came; gives pieces of the body. Raises BadResponse."""
        buffer = self._buffer + data if self._buffer else data
        self._buffer = b""
        position = 0
        while position < len(buffer):
            if self._part is _Part.DONE:
                self.reusable = False  # it talks out of turn
                return
            if self._part in (_Part.LENGTH, _Part.CHUNK, _Part.UNTIL_CLOSE):
                end = None if self._part is _Part.UNTIL_CLOSE else position + self._left
                piece = buffer[position:end]
                position += len(piece)
                self._took(len(piece))
                yield piece
                continue
            moved = self._read_line_part(buffer, position)
            if moved == position:
                break
            position = moved
        self._buffer = buffer[position:]

    def end(self, *, cleanly: bool) -> None:
        """The connection ended. Raises ConnectionBroken unless that ends the response, too."""
        if self._part is _Part.UNTIL_CLOSE and cleanly:
            self._part = _Part.DONE
        if self._part is not _Part.DONE:
            answered = self.head is not None or bool(self._buffer)
            raise ConnectionBroken("the connection ended before the answer did", answered=answered)

    def _took(self, length: int) -> None:
        if self._part is _Part.UNTIL_CLOSE:
            return
        self._left -= length
        self._framing = max(0, self._framing - length)
        if self._left == 0:
            self._part = _Part.DONE if self._part is _Part.LENGTH else _Part.CHUNK_END

    def _read_line_part(self, buffer: bytes, position: int) -> int:
        """Read a part that ends with a line end, if all of it is there; gives the position behind it."""
        if self._part is _Part.HEAD:
            return self._read_head(buffer, position)
        end = buffer.find(b"\r\n", position)
        longest = _CHUNK_LINE if self._part is not _Part.TRAILERS else MAX_HEAD_BYTES
        if end < 0:
            if len(buffer) - position > longest:
                raise BadResponse("a line of the answer does not end")
            return position
        if end - position > longest:
            raise BadResponse("a line of the answer is too long")
        self._read_line(buffer[position:end])
        return end + 2

    def _read_line(self, line: bytes) -> None:
        self._framing += len(line) + 2
        if self._framing > MAX_FRAMING:
            raise BadResponse("the answer is more frame than content")
        if self._part is _Part.CHUNK_END:
            if line:
                raise BadResponse("a chunk does not end where it should")
            self._part = _Part.CHUNK_LINE
        elif self._part is _Part.CHUNK_LINE:
            match = _CHUNK.fullmatch(line)
            if match is None:
                raise BadResponse("not a chunk")
            self._left = int(match[1], 16)
            self._part = _Part.CHUNK if self._left else _Part.TRAILERS
        else:
            self._head_bytes += len(line)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise BadResponse("too many trailers")
            if not line:
                self._part = _Part.DONE

    def _read_head(self, buffer: bytes, position: int) -> int:
        end = buffer.find(b"\r\n\r\n", position)
        if self._head_bytes + (len(buffer) if end < 0 else end) - position > MAX_HEAD_BYTES:
            raise BadResponse("the head of the answer is too large")
        if end < 0:
            return position
        self._head_bytes += end + 4 - position
        lines = buffer[position:end].split(b"\r\n")
        status = _STATUS.fullmatch(lines[0])
        if status is None:
            raise BadResponse("not an HTTP/1.1 response")
        code = int(status[2])
        headers = _fields(lines[1:])
        if code == 101:
            raise BadResponse("another protocol, which nobody asked for")
        if code >= 200:
            self._begin(code, headers, modern=status[1] == b"1")
        return end + 4

    def _begin(self, code: int, headers: dict[str, str], *, modern: bool) -> None:
        connection = [word.strip() for word in headers.get("connection", "").lower().split(",")]
        self.reusable = modern and "close" not in connection
        length = _announced_length(headers)
        if self._bodyless or code in (204, 304):
            self._part, length = _Part.DONE, 0
        elif (encoding := headers.get("transfer-encoding")) is not None:
            if not modern or encoding.lower() != "chunked":
                raise BadResponse("a transfer encoding nobody asked for")
            self.reusable = self.reusable and length is None
            self._part, length = _Part.CHUNK_LINE, None
        elif length is not None:
            self._part, self._left = (_Part.LENGTH if length else _Part.DONE), length
        else:
            self._part, self.reusable = _Part.UNTIL_CLOSE, False
        self.head = ResponseHead(code, headers, length)


def _fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > MAX_FIELDS:
        raise BadResponse("too many headers")
    headers: dict[str, str] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadResponse("not a header")
        name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _announced_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    values = {value.strip() for value in text.split(",")}
    if len(values) != 1 or _LENGTH.fullmatch(value := values.pop()) is None:
        raise BadResponse("a content length that is none")
    return int(value)
