# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/media/{download,thumbnail}/{mediaId}` (server-server API, "Content Repository").

Only media of this server is given: what it fetched from others is theirs to give.
"""

from __future__ import annotations

import secrets

from homeserver.media.services import MediaServices
from homeserver.web.media import media_reply, thumbnail_reply, wait_of, wanted_thumbnail
from homeserver.web.replies import FileReply, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route


class MediaServing:
    """See the module."""

    def __init__(self, media: MediaServices) -> None:
        self._media = media

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                f"/media/{kind}/{{media_id}}",
                handler,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_media",
            )
            for kind, handler in (("download", self.download), ("thumbnail", self.thumbnail))
        ]

    async def download(self, request: MatrixRequest) -> Reply:
        """The file, as the second of two parts. Raises NotFound, NotYetUploaded."""
        media = await self._media.downloads.own(request.param("media_id"), timeout_ms=wait_of(request))
        return _second_of_two(media_reply(media, media.filename))

    async def thumbnail(self, request: MatrixRequest) -> Reply:
        """A thumbnail, likewise."""
        width, height, crop, animated = wanted_thumbnail(request)
        media = await self._media.downloads.own(request.param("media_id"), timeout_ms=wait_of(request))
        return _second_of_two(
            thumbnail_reply(
                await self._media.thumbnails.of(media, width, height, crop=crop, animated=animated)
            )
        )


def _second_of_two(reply: FileReply) -> FileReply:
    """Random, a boundary is not in the file."""
    boundary = secrets.token_hex(16)
    headers = "".join(
        f"{name}: {reply.headers[name]}\r\n" for name in ("Content-Type", "Content-Disposition")
    )
    return FileReply(
        reply.path,
        reply.size,
        {"Content-Type": f"multipart/mixed; boundary={boundary}", "Cache-Control": "no-store"},
        before=(
            f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n{headers}\r\n"
        ).encode("latin-1"),
        after=f"\r\n--{boundary}--\r\n".encode("ascii"),
    )
