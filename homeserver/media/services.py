# SPDX-License-Identifier: Apache-2.0
"""The media services, put together for the composition root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from homeserver.config import Config
from homeserver.media.blobs import Blobs
from homeserver.media.downloads import Downloads
from homeserver.media.remote import RemoteMedia
from homeserver.media.sweeping import MediaSweeping, MyTurn
from homeserver.media.thumbnails import Thumbnails
from homeserver.media.uploads import Uploads
from storage.database import Database
from storage.media import CHANNEL, MediaStore


class MediaServices(Struct, frozen=True, kw_only=True):
    """What the endpoints call."""

    blobs: Blobs
    uploads: Uploads
    downloads: Downloads
    thumbnails: Thumbnails
    sweeping: MediaSweeping

    async def start(self, database: Database) -> None:
        """Hear of uploads to other processes, and sweep."""
        await database.listen(CHANNEL, self.downloads.heard)
        self.sweeping.start()

    async def stop(self) -> None:
        """End it; the database is still there."""
        await self.sweeping.stop()


def build_media(
    reactor: Any,
    config: Config,
    database: Database,
    remote: RemoteMedia,
    now: Callable[[], int],
    *,
    my_turn: MyTurn,
) -> MediaServices:
    """Build them. `my_turn`: see `MediaSweeping`."""
    store = MediaStore(database)
    largest = int(config.media.max_upload_size)
    blobs = Blobs(config.data_dir / "media", store, now, largest=largest)
    return MediaServices(
        blobs=blobs,
        uploads=Uploads(
            server_name=config.server_name,
            store=store,
            blobs=blobs,
            max_size=int(config.media.max_upload_size),
            user_quota=int(config.media.user_quota),
            now=now,
        ),
        downloads=Downloads(
            reactor,
            server_name=config.server_name,
            store=store,
            blobs=blobs,
            remote=remote,
            max_remote_size=int(config.media.max_upload_size),
            now=now,
        ),
        thumbnails=Thumbnails(store, blobs),
        sweeping=MediaSweeping(
            reactor,
            store=store,
            blobs=blobs,
            remote_cache=int(config.media.remote_cache),
            now=now,
            my_turn=my_turn,
        ),
    )
