# SPDX-License-Identifier: Apache-2.0
"""How media is asked for and given over HTTP, by clients and by servers alike.

Owns the query parameters of both, and the headers that keep a browser from taking a file for anything but what it is.
"""

from __future__ import annotations

from typing import Final

from homeserver.errors import InvalidParam
from homeserver.media.content_types import disposition
from homeserver.media.downloads import DEFAULT_WAIT, Media
from homeserver.media.thumbnails import Thumbnail
from homeserver.web.replies import FileReply
from homeserver.web.request import MatrixRequest

_POLICY: Final = (
    "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
    "style-src 'unsafe-inline'; media-src 'self'; object-src 'self';"
)
#: What a media id means never changes.
_CACHING: Final = "private, max-age=31536000, immutable"
_MOST_SIDE: Final = 1 << 16
_SUFFIXES: Final = {"image/jpeg": "jpg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}


def wait_of(request: MatrixRequest) -> int:
    """How long (ms) the asker would wait for an upload that is to come."""
    return request.query.integer("timeout_ms", DEFAULT_WAIT, minimum=0, maximum=2**53)


def wanted_thumbnail(request: MatrixRequest) -> tuple[int, int, bool, bool]:
    """Width, height, whether to cut, whether it may move. Raises MissingParam, InvalidParam."""
    query = request.query
    query.required("width")
    query.required("height")
    width = query.integer("width", 1, minimum=1, maximum=_MOST_SIDE)
    height = query.integer("height", 1, minimum=1, maximum=_MOST_SIDE)
    method = query.string("method", "scale")
    if method not in {"crop", "scale"}:
        raise InvalidParam("method must be crop or scale")
    return width, height, method == "crop", query.boolean("animated", False)


def media_reply(media: Media, name: str | None) -> FileReply:
    """A download, with the headers that keep browsers from taking it for anything else."""
    return FileReply(
        media.path,
        media.size,
        _headers(media.content_type, disposition(media.content_type, name)),
        etag=f'"{media.digest.hex()}"',
    )


def thumbnail_reply(thumbnail: Thumbnail) -> FileReply:
    """A thumbnail."""
    suffix = _SUFFIXES.get(thumbnail.content_type, "bin")
    return FileReply(
        thumbnail.path,
        thumbnail.size,
        _headers(thumbnail.content_type, disposition(thumbnail.content_type, f"thumbnail.{suffix}")),
        etag=f'"{thumbnail.digest.hex()}"',
    )


def _headers(content_type: str, shown_as: str) -> dict[str, str]:
    text = content_type.startswith("text/") and "charset" not in content_type
    return {
        "Content-Type": f"{content_type}; charset=utf-8" if text else content_type,
        "Content-Disposition": shown_as,
        "Content-Security-Policy": _POLICY,
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": _CACHING,
    }
