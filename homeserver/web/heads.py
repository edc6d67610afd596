# SPDX-License-Identifier: Apache-2.0
"""The head of an HTTP/1.1 request, from bytes to what it says (RFC 9112 sections 2 to 7, RFC 9110 section 5).

Owns the grammar, strictly where two readers of the same bytes could disagree about where a request ends: a length is
given once, as digits or as chunks; lines end in CRLF and nowhere else; a line is never folded into the next. Does not
own how much of it may come, which is `channel`'s.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from homeserver.web.senders import Sender

MOST_FIELDS: Final = 100
_MOST_NAMES: Final = 2000
_LONGEST_NAME: Final = 64
_LONGEST_LENGTH: Final = 18
"""Digits of a Content-Length: what is longer is no number anybody means, and Python reads the longest slowly."""

_LENGTH_FIELD: Final = b"\r\nContent-Length: "
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: What is beyond comes percent-encoded; of raw bytes nobody can tell which characters are meant.
_TARGET: Final = re.compile(rb"[!-~]+")
_METHODS: Final[dict[bytes, str]] = {
    method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
#: Names as clients write them → in lower case; so many clients, so few ways to write them.
_names: Final[dict[bytes, bytes]] = {}


class BadHead(Exception):
    """These bytes are no request."""


def read_line(line: bytes) -> tuple[str, bytes, bool]:
    """Method, target and whether it is HTTP/1.1 (else 1.0). Raises BadHead."""
    try:
        method, target, version = line.split(b" ")
    except ValueError:
        raise BadHead from None
    name = _METHODS.get(method)
    if name is None:
        if _TOKEN.fullmatch(method) is None:
            raise BadHead
        name = method.decode("ascii")
    if _TARGET.fullmatch(target) is None:
        raise BadHead
    if version == b"HTTP/1.1":
        return name, target, True
    if version != b"HTTP/1.0":
        raise BadHead
    return name, target, False


def apart_from_length(block: bytes) -> tuple[bytes, int] | None:
    """The lines without the one of the Content-Length, and that; None where it is not written as by nearly everyone.

    For fields that differ in it alone. The rest may give a length, too, which whoever asks must look at.
    """
    start = block.rfind(_LENGTH_FIELD)
    if start < 0:
        return None
    end = block.find(b"\r\n", start + 2)
    digits = block[start + len(_LENGTH_FIELD) : end if end >= 0 else None]
    if not digits.isdigit() or len(digits) > _LONGEST_LENGTH:
        return None
    return block[:start] + (block[end:] if end >= 0 else b""), int(digits)


class Fields:
    """The header fields of a request, and what they say about the connection."""

    __slots__ = ("_values", "closes", "expects_continue", "has_host", "has_length", "length", "sender")

    def __init__(self, block: bytes) -> None:
        """`block`: the lines after the first, with CRLF between them. Raises BadHead."""
        self._values = values = _values(block) if block else {}
        hosts = values.get(b"host", ())
        if len(hosts) > 1:
            raise BadHead
        self.has_host = bool(hosts)
        self.length = _length(values)
        """Bytes of the body; None: nobody knows, it comes in chunks."""
        self.has_length = b"content-length" in values
        self.closes = b"close" in self.tokens(b"connection")
        expect = values.get(b"expect")
        self.expects_continue = expect is not None and expect[-1].lower() == b"100-continue"
        self.sender: Sender | None = None
        """Kept here by `senders`."""

    def last(self, name: bytes) -> bytes | None:
        """The last field of that name, which is given in lower case."""
        values = self._values.get(name)
        return None if values is None else values[-1]

    def all(self, name: bytes) -> Sequence[bytes]:
        """Every field of that name, which is given in lower case, in order."""
        return self._values.get(name, ())

    def tokens(self, name: bytes) -> set[bytes]:
        """The entries of the lists that the fields of that name are, in lower case."""
        values = self._values.get(name)
        if values is None:
            return set()
        return {token.strip().lower() for value in values for token in value.split(b",")}

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Names in lower case and values; those of one name in order."""
        return ((name, value) for name, values in self._values.items() for value in values)


def _values(block: bytes) -> dict[bytes, list[bytes]]:
    lines = block.split(b"\r\n")
    count = len(lines)
    if (
        count > MOST_FIELDS
        or b"\0" in block
        or block.count(b"\n") != count - 1
        or block.count(b"\r") != count - 1
    ):
        raise BadHead
    values: dict[bytes, list[bytes]] = {}
    for line in lines:
        written, colon, value = line.partition(b":")
        name = _names.get(written) or _name(written)
        if not colon:
            raise BadHead
        value = value.strip(b" \t")
        same = values.get(name)
        if same is None:
            values[name] = [value]
        else:
            same.append(value)
    return values


def _name(written: bytes) -> bytes:
    if _TOKEN.fullmatch(written) is None:
        raise BadHead
    name = written.lower()
    if len(name) <= _LONGEST_NAME:
        if len(_names) >= _MOST_NAMES:  # of which most were made up
            _names.clear()
        _names[written] = name
    return name


def _length(values: dict[bytes, list[bytes]]) -> int | None:
    """Where a length is given twice, or in both ways, others may read another one than we (request smuggling)."""
    codings = values.get(b"transfer-encoding")
    lengths = values.get(b"content-length")
    if codings is not None:
        if lengths is not None or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadHead
        return None
    if lengths is None:
        return 0
    digits = lengths[0]
    if len(lengths) > 1 or not digits.isdigit() or len(digits) > _LONGEST_LENGTH:
        raise BadHead
    return int(digits)
