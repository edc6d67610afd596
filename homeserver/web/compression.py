# SPDX-License-Identifier: Apache-2.0
"""Compressed responses: when, and off the reactor thread where it would be felt.

Owns the decision. Only JSON from 8 KiB is compressed: below, the time costs more than the bytes; media is compressed
already. Level 1 takes some 10 µs per KiB and saves about as much as higher levels do on JSON. Beyond 128 KiB it is done
on a thread, as a full sync of a large account would stop the reactor for tens of milliseconds.
"""

import zlib
from typing import Final

from twisted.internet.threads import deferToThread

from homeserver.web.heads import Fields
from homeserver.web.replies import JSON

SMALLEST: Final = 8 * 1024
LARGEST_INLINE: Final = 128 * 1024


def worth_it(body: bytes, headers: dict[str, str] | None, fields: Fields) -> bool:
    """Whether this body goes compressed to a client that sent these fields. `headers` None: plain JSON."""
    if len(body) < SMALLEST:
        return False
    if headers is not None and (headers.get("Content-Type") != JSON or "Content-Encoding" in headers):
        return False
    return _accepts_gzip(fields)


async def compress(body: bytes) -> bytes:
    """The body in gzip format."""
    if len(body) <= LARGEST_INLINE:
        return _gzip(body)
    return await deferToThread(_gzip, body)


def headers_of(headers: dict[str, str] | None) -> dict[str, str]:
    """The headers of the response, now that it is compressed."""
    result = {"Content-Type": JSON, "Cache-Control": "no-store"} if headers is None else dict(headers)
    result["Content-Encoding"] = "gzip"
    result["Vary"] = f"{result['Vary']}, Accept-Encoding" if "Vary" in result else "Accept-Encoding"
    return result


def _gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return compressor.compress(body) + compressor.flush()


def _accepts_gzip(fields: Fields) -> bool:
    """RFC 9110 section 12.5.3, where `gzip;q=0` refuses."""
    for value in fields.all(b"accept-encoding"):
        for entry in value.lower().split(b","):
            coding, _, parameters = entry.partition(b";")
            if coding.strip() == b"gzip":
                return parameters.strip().replace(b" ", b"") not in {b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"}
    return False
