# SPDX-License-Identifier: Apache-2.0
"""The chunked coding of a request's body (RFC 9112 section 7.1), taken off as it comes.

Owns its grammar. Extensions and trailers are read over; neither says anything that is listened to. Their lines end in
CRLF and nowhere else all the same, or others could read another end of the body.
"""

import re
from typing import Final

_LONGEST_LINE: Final = 1024
_LONGEST_TRAILERS: Final = 8 * 1024
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")
_SIZES, _DATA, _END, _TRAILERS = range(4)


class BadChunks(Exception):
    """These bytes are no chunks."""


class Chunks:
    """One body."""

    __slots__ = ("_held", "_left", "_state", "_trailers")

    def __init__(self) -> None:
        self._held = bytearray()
        self._state = _SIZES
        self._left = 0
        self._trailers = 0

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """What of the body is in these bytes, and what follows the body: None while it has not ended.

        Raises BadChunks.
        """
        if self._state == _DATA and len(data) < self._left:
            self._left -= len(data)
            return data, None
        held = self._held
        held += data
        content = bytearray()
        at, rest = 0, None
        while rest is None:
            if self._state == _DATA:
                piece = held[at : at + self._left]
                content += piece
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._state = _END
            elif self._state == _END:
                if len(held) < at + 2:
                    break
                if held[at : at + 2] != b"\r\n":
                    raise BadChunks
                at += 2
                self._state = _SIZES
            else:
                end = held.find(b"\r\n", at)
                self._check_line((len(held) if end < 0 else end) - at)
                if end < 0:
                    break
                line, at = bytes(held[at:end]), end + 2
                if self._state == _SIZES:
                    self._begin(line)
                elif not line:
                    rest = bytes(held[at:])
                elif _TRAILER.fullmatch(line) is None:
                    raise BadChunks
                else:
                    self._trailers += len(line) + 2
        del held[:at]
        return bytes(content), rest

    def _begin(self, line: bytes) -> None:
        size = _SIZE.fullmatch(line)
        if size is None:
            raise BadChunks
        self._left = int(size[1], 16)
        self._state = _DATA if self._left else _TRAILERS

    def _check_line(self, length: int) -> None:
        most = _LONGEST_LINE if self._state == _SIZES else _LONGEST_TRAILERS - self._trailers
        if length > most:
            raise BadChunks
