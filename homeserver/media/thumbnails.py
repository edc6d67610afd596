# SPDX-License-Identifier: Apache-2.0
"""Thumbnails: made when first asked for, one at a time, and kept. Client-server API, "Thumbnails".

Owns who may have one made when. What they look like is `imaging`'s; which sizes there are, `thumbnail_sizes`'.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

from msgspec import Struct
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.threads import deferToThread

from homeserver.errors import LimitExceeded, RemoteTooLarge, TooLarge, Unknown
from homeserver.media.blobs import Blobs
from homeserver.media.downloads import Media
from homeserver.media.thumbnail_sizes import Size, served_size
from storage.media import MediaStore, ThumbnailKey, ThumbnailRow

MOST_SOURCE: Final = 64 * 2**20
"""Bytes of a picture of which thumbnails are made."""
_KEPT_EACH: Final = 32
_MOST_WAITING: Final = 100
_BUSY_MS: Final = 2000


class Thumbnail(Struct, frozen=True):
    """A file that is one."""

    digest: bytes
    path: Path
    size: int
    content_type: str


class Thumbnails:
    """Finds or makes them."""

    def __init__(self, store: MediaStore, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs
        self._making = DeferredSemaphore(1)
        """Each takes up to a few hundred megabytes while it is made."""
        self._waiting = 0

    async def of(self, media: Media, width: int, height: int, *, crop: bool, animated: bool) -> Thumbnail:
        """One at least as large as wanted, if the picture is. Raises Unknown for what is no picture, TooLarge."""
        size = served_size(width, height, crop=crop)
        key = ThumbnailKey(media.digest, *(size or (0, 0, False)), animated)
        found = await self._store.thumbnail(key)
        if found is None or not await self._blobs.holds(found.digest):
            found = await self._make(media, key, size)
        return Thumbnail(found.digest, self._blobs.path(found.digest), found.size, found.content_type)

    async def _make(self, media: Media, key: ThumbnailKey, size: Size | None) -> ThumbnailRow:
        if media.size > MOST_SOURCE:
            raise _too_large(media)
        if self._waiting >= _MOST_WAITING:
            raise LimitExceeded(_BUSY_MS, "The server is busy with other thumbnails")
        self._waiting += 1
        try:
            await self._making.acquire()
            try:
                found = await self._store.thumbnail(key)  # who waited before may have made the same
                if found is not None and await self._blobs.holds(found.digest):
                    return found
                return await self._made(media, key, size)
            finally:
                self._making.release()
        finally:
            self._waiting -= 1

    async def _made(self, media: Media, key: ThumbnailKey, size: Size | None) -> ThumbnailRow:
        imaging = await deferToThread(_decoders)
        try:
            made = await deferToThread(imaging.make_thumbnail, media.path, size, animated=key.animated)
        except imaging.NoPicture:
            raise Unknown("Cannot generate thumbnails for the requested content") from None
        except imaging.PictureTooLarge:
            raise _too_large(media) from None
        if made.data is None:
            row = ThumbnailRow(media.digest, media.size, made.content_type)
        else:
            digest = await self._blobs.keep_bytes(made.data)
            row = ThumbnailRow(digest, len(made.data), made.content_type)
        await self._store.add_thumbnail(key, row, _KEPT_EACH)
        return row


def _decoders() -> ModuleType:
    """Loaded when first needed: they take some megabytes, and a moment. Blocks."""
    return import_module("homeserver.media.imaging")


def _too_large(media: Media) -> TooLarge | RemoteTooLarge:
    message = "Content is too large to thumbnail"
    return RemoteTooLarge(message) if media.remote else TooLarge(message)
