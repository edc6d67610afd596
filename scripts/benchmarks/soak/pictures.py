# SPDX-License-Identifier: Apache-2.0
"""Pictures made for uploading: real PNGs, no two alike."""

import struct
import zlib


def picture(width: int, height: int, number: int) -> bytes:
    """A PNG of 8-bit grey; `number` decides the shades."""
    rows = b"".join(
        b"\0" + bytes((number * 7 + x * 3 + y) & 0xFF for x in range(width)) for y in range(height)
    )
    header = struct.pack("!IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data)
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))
