# SPDX-License-Identifier: Apache-2.0
"""What media is called on its way to and from people: content types, file names, dispositions. Pure.

Client-server API, "Serving inline content"; RFC 6266 and RFC 8187 for `Content-Disposition`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

INLINE: Final = frozenset(
    {
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    }
)
"""What no browser takes for a page or a script, whatever the bytes are."""

UNKNOWN: Final = "application/octet-stream"
MOST_NAME: Final = 255
"""Characters of a file name."""
_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(\s*;[\t -~]{0,200})?")
_EXTENDED: Final = re.compile(r"filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)
_QUOTED: Final = re.compile(r'filename\s*=\s*"((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_BARE: Final = re.compile(r'filename\s*=\s*([^";\s]+)', re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def clean_type(given: str | None) -> str:
    """A content type as it may be sent on; anything that is none becomes `application/octet-stream`."""
    if given is None or not _TYPE.fullmatch(given.strip()):
        return UNKNOWN
    return given.strip()


def clean_name(given: str | None) -> str | None:
    """A file name without control characters and lone surrogates, cut; None for nothing."""
    if not given:
        return None
    text = _CONTROL.sub("", given).encode("utf-8", "ignore").decode("utf-8")
    return text[:MOST_NAME] or None


def disposition(content_type: str, name: str | None) -> str:
    """The `Content-Disposition` of a download."""
    kind = "inline" if content_type.partition(";")[0].strip().lower() in INLINE else "attachment"
    if name is None:
        return kind
    if name.isascii() and not set(name) & set('"\\%'):
        return f'{kind}; filename="{name}"'
    return f"{kind}; filename*=utf-8''{quote(name, safe='')}"


def name_of(header: str | None) -> str | None:
    """The file name that a `Content-Disposition` header gives."""
    if header is None:
        return None
    extended = _EXTENDED.search(header)
    if extended is not None:
        return clean_name(unquote(extended[1], errors="replace"))
    quoted = _QUOTED.search(header)
    if quoted is not None:
        return clean_name(re.sub(r"\\(.)", r"\1", quoted[1]))
    bare = _BARE.search(header)
    return None if bare is None else clean_name(unquote(bare[1], errors="replace"))
