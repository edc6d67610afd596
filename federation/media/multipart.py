# SPDX-License-Identifier: Apache-2.0
"""The answer to a media request: two parts, of which the second is the media, taken apart as it comes.

Owns as much of RFC 2046 as the answer needs. The first part is read over; the second goes on, piece by piece. Holds no
more than a part's headers or a boundary's length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final

_BOUNDARY: Final = re.compile(r';\s*boundary\s*=\s*(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_MOST_HEADERS: Final = 16 * 1024
_MOST_BEFORE: Final = 64 * 1024
"""Bytes before the media: the first part and what is around it."""


class BadMultipart(Exception):
    """The answer is not what the specification says."""


class _Part(Enum):
    PREAMBLE = auto()
    FIRST_HEADERS = auto()
    FIRST = auto()
    SECOND_HEADERS = auto()
    SECOND = auto()
    DONE = auto()


_IS_HEADERS: Final = {_Part.FIRST_HEADERS: _Part.FIRST, _Part.SECOND_HEADERS: _Part.SECOND}


class TwoParts:
    """Feed it the body; `write` gets the second part's bytes, `headers` are that part's, `done` says it is whole."""

    def __init__(self, content_type: str, write: Callable[[bytes], None]) -> None:
        """Raises BadMultipart for a content type that names no boundary."""
        found = _BOUNDARY.search(content_type)
        if not content_type.lower().startswith("multipart/mixed") or found is None:
            raise BadMultipart("the answer is not multipart/mixed with a boundary")
        self.headers: Mapping[str, str] = {}
        self._delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
        self._write = write
        # The first delimiter may stand at the very beginning, without the line break that else begins it.
        self._held = b"\r\n"
        self._part = _Part.PREAMBLE
        self._before = 0
        self._skip = 0
        """Bytes that are the headers' end, and not the part's."""

    @property
    def done(self) -> bool:
        """Whether the second part has ended."""
        return self._part is _Part.DONE

    def feed(self, data: bytes) -> None:
        """Take what came. Raises BadMultipart, and what `write` raises."""
        if self._part is not _Part.SECOND and self._part is not _Part.DONE:
            self._before += len(data)
            if self._before > _MOST_BEFORE + len(data):
                raise BadMultipart("too much before the media")
        self._held += data
        while self._step():
            pass

    def _step(self) -> bool:
        """Go on by a part; whether there was enough for that."""
        if self._part is _Part.DONE:
            self._held = b""
            return False
        if self._part in _IS_HEADERS:
            return self._read_headers()
        end = self._held.find(self._delimiter)
        if end < 0:
            kept = len(self._delimiter) - 1
            if len(self._held) > kept:
                self._take(self._held[:-kept])
                self._held = self._held[-kept:]
            return False
        self._take(self._held[:end])
        self._held = self._held[end + len(self._delimiter) :]
        self._part = {
            _Part.PREAMBLE: _Part.FIRST_HEADERS,
            _Part.FIRST: _Part.SECOND_HEADERS,
            _Part.SECOND: _Part.DONE,
        }[self._part]
        return True

    def _take(self, data: bytes) -> None:
        skipped, self._skip = min(self._skip, len(data)), max(0, self._skip - len(data))
        if self._part is _Part.SECOND and len(data) > skipped:
            self._write(data[skipped:])

    def _read_headers(self) -> bool:
        """Headers stand between the rest of the delimiter's line and an empty line; there may be none."""
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            if len(self._held) > _MOST_HEADERS:
                raise BadMultipart("a part's headers are too long")
            return False
        if self._held.startswith(b"--"):
            raise BadMultipart("the answer ends before the media")
        first, *lines = self._held[:end].split(b"\r\n")
        if first.strip():
            raise BadMultipart("a boundary is not alone on its line")
        self.headers = dict(_field(line) for line in lines)
        # The line break that ends the headers may begin the next delimiter, if the part is empty.
        self._held = self._held[end + 2 :]
        self._skip = 2
        self._part = _IS_HEADERS[self._part]
        return True


def _field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon:
        raise BadMultipart("a part has a header that is none")
    return name.decode("latin-1").strip().lower(), value.decode("latin-1").strip()
