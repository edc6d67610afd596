# SPDX-License-Identifier: Apache-2.0
"""Media over HTTP. Client-server API, "Content repository".

The download endpoints that ask for no token are frozen, as the specification has it: nothing here is older than the
freeze, so they know of nothing. `/media/v3/config` and uploads stay where they were.
"""

from __future__ import annotations

from homeserver.errors import NotFound
from homeserver.media.content_types import clean_name
from homeserver.media.downloads import Media
from homeserver.media.services import MediaServices
from homeserver.spooling import Spool
from homeserver.web.media import media_reply, thumbnail_reply, wait_of, wanted_thumbnail
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import CLIENT, MEDIA, Auth, Route


class MediaEndpoints:
    """Uploads, downloads, thumbnails, and how large they may be."""

    def __init__(self, media: MediaServices) -> None:
        self._media = media

    def routes(self) -> tuple[Route, ...]:
        most = self._media.uploads.max_size
        download = "/media/download/{server_name}/{media_id}"
        return (
            Route(
                "POST",
                "/upload",
                self.upload,
                under=MEDIA,
                spool=True,
                max_body=most,
                limit="uploads",
                suspended_ok=False,
                resource="media",
                besides=("client",),
            ),
            Route(
                "PUT",
                "/upload/{server_name}/{media_id}",
                self.fill,
                under=MEDIA,
                spool=True,
                max_body=most,
                limit="uploads",
                suspended_ok=False,
                resource="media",
                besides=("client",),
            ),
            Route(
                "POST",
                "/create",
                self.create,
                under=MEDIA,
                limit="uploads",
                suspended_ok=False,
                resource="media",
                besides=("client",),
            ),
            Route(
                "GET",
                "/config",
                self.config,
                under=MEDIA,
                also=tuple(f"{prefix}/media/config" for prefix in CLIENT),
                auth=Auth.GUEST_OK,
                resource="media",
                besides=("client",),
            ),
            self._read(download, self.download, "downloads"),
            self._read(download + "/{file_name}", self.download, "downloads"),
            self._read("/media/thumbnail/{server_name}/{media_id}", self.thumbnail, "thumbnails"),
            *(
                Route(
                    "GET",
                    template,
                    self.frozen,
                    under=MEDIA,
                    auth=Auth.NONE,
                    limit="discovery",
                    resource="media",
                    besides=("client", "federation"),
                )
                for template in (
                    "/download/{server_name}/{media_id}",
                    "/download/{server_name}/{media_id}/{file_name}",
                    "/thumbnail/{server_name}/{media_id}",
                )
            ),
        )

    def _read(self, template: str, handler: object, limit: str) -> Route:
        return Route(
            "GET",
            template,
            handler,  # type: ignore[arg-type]
            auth=Auth.GUEST_OK,
            limit=limit,
            resource="media",
            besides=("client",),
        )

    async def upload(self, request: MatrixRequest) -> Reply:
        """`POST /_matrix/media/v3/upload`."""
        uri = await self._media.uploads.upload(
            request.requester.user_id,
            _body(request),
            content_type=request.header("Content-Type"),
            filename=request.query.string("filename"),
        )
        return {"content_uri": uri}

    async def create(self, request: MatrixRequest) -> Reply:
        """`POST /_matrix/media/v1/create`."""
        request.json_object(empty_ok=True)
        uri, expires = await self._media.uploads.reserve(request.requester.user_id)
        return {"content_uri": uri, "unused_expires_at": expires}

    async def fill(self, request: MatrixRequest) -> Reply:
        """`PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`."""
        await self._media.uploads.fill(
            request.requester.user_id,
            request.param("server_name"),
            request.param("media_id"),
            _body(request),
            content_type=request.header("Content-Type"),
            filename=request.query.string("filename"),
        )
        return {}

    async def config(self, _request: MatrixRequest) -> Reply:
        """`GET /_matrix/client/v1/media/config`."""
        return {"m.upload.size": self._media.uploads.max_size}

    async def download(self, request: MatrixRequest) -> Reply:
        """`GET /_matrix/client/v1/media/download/{serverName}/{mediaId}[/{fileName}]`."""
        media = await self._find(request)
        name = clean_name(request.param("file_name", "")) or media.filename
        return media_reply(media, name)

    async def thumbnail(self, request: MatrixRequest) -> Reply:
        """`GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`."""
        width, height, crop, animated = wanted_thumbnail(request)
        media = await self._find(request)
        return thumbnail_reply(
            await self._media.thumbnails.of(media, width, height, crop=crop, animated=animated)
        )

    async def frozen(self, _request: MatrixRequest) -> Reply:
        """`GET /_matrix/media/v3/{download,thumbnail}/…`."""
        raise NotFound("Media is given to users who are logged in: ask under /_matrix/client/v1/media")

    async def _find(self, request: MatrixRequest) -> Media:
        return await self._media.downloads.find(
            request.param("server_name"), request.param("media_id"), timeout_ms=wait_of(request)
        )


def _body(request: MatrixRequest) -> Spool:
    assert request.spool is not None, "the route spools its bodies"
    return request.spool
