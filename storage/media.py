# SPDX-License-Identifier: Apache-2.0
"""Which media there is: ids, what they are called, and the digests of their files.

Owns the tables `blobs`, `media` and `thumbnails`. The files themselves are `homeserver.media.blobs`'; a blob's row is
there before its file is put in place, and both go in one transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from storage.database import Database, Transaction

CHANNEL: Final = "media_uploaded"
"""Where it is told that a reserved id got its content: `media_id`."""

_KEEP = """
INSERT INTO blobs (digest, size, kept_ts) VALUES (%s, %s, %s)
ON CONFLICT (digest) DO UPDATE SET kept_ts = excluded.kept_ts
"""
_ADD = """
INSERT INTO media (server_name, media_id, digest, size, content_type, filename, uploader, created_ts, used_ts)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (server_name, media_id) DO NOTHING
"""
_PUT_FETCHED = """
INSERT INTO media (server_name, media_id, digest, size, content_type, filename, created_ts, used_ts)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (server_name, media_id) DO UPDATE SET digest = excluded.digest, size = excluded.size,
    content_type = excluded.content_type, filename = excluded.filename, used_ts = excluded.used_ts
WHERE media.uploader IS NULL
"""
_RESERVE = """
INSERT INTO media (server_name, media_id, uploader, created_ts, expires_ts, used_ts)
SELECT %(server)s, %(media_id)s, %(uploader)s, %(now)s, %(expires)s, %(now)s
WHERE (SELECT count(*) FROM media WHERE uploader = %(uploader)s AND digest IS NULL AND expires_ts > %(now)s) < %(most)s
"""
_FILL = """
WITH filled AS (
    UPDATE media SET digest = %s, size = %s, content_type = %s, filename = %s, expires_ts = NULL, used_ts = %s
    WHERE server_name = %s AND media_id = %s AND uploader = %s AND digest IS NULL AND expires_ts > %s
    RETURNING media_id
)
SELECT pg_notify('media_uploaded', media_id) FROM filled
"""
_FIND = """
SELECT server_name, media_id, digest, size, content_type, filename, uploader, expires_ts, used_ts
FROM media WHERE server_name = %s AND media_id = %s
"""
_USED = "UPDATE media SET used_ts = %s WHERE server_name = %s AND media_id = %s AND used_ts < %s"
_UPLOADED = "SELECT coalesce(sum(size), 0) FROM media WHERE uploader = %s"
_THUMBNAIL = """
SELECT digest, size, content_type FROM thumbnails
WHERE source = %s AND width = %s AND height = %s AND crop = %s AND animated = %s
"""
_ADD_THUMBNAIL = """
INSERT INTO thumbnails (source, width, height, crop, animated, digest, size, content_type)
SELECT %(source)s, %(width)s, %(height)s, %(crop)s, %(animated)s, %(digest)s, %(size)s, %(content_type)s
WHERE (SELECT count(*) FROM thumbnails WHERE source = %(source)s) < %(most)s
ON CONFLICT DO NOTHING
"""
_EXPIRE = "DELETE FROM media WHERE digest IS NULL AND expires_ts <= %s"
_EVICT = """
WITH aged AS (
    SELECT server_name, media_id, sum(size) OVER (ORDER BY used_ts DESC, server_name, media_id) AS upto
    FROM media WHERE uploader IS NULL
)
DELETE FROM media m USING aged a
WHERE a.upto > %s AND m.server_name = a.server_name AND m.media_id = a.media_id AND m.uploader IS NULL
"""
_UNUSED = """
SELECT b.digest FROM blobs b
WHERE b.kept_ts < %s AND NOT EXISTS (SELECT FROM media m WHERE m.digest = b.digest)
  AND NOT EXISTS (SELECT FROM thumbnails t WHERE t.digest = b.digest)
LIMIT %s
"""
_DROP = """
DELETE FROM blobs b
WHERE b.digest = %s AND b.kept_ts < %s AND NOT EXISTS (SELECT FROM media m WHERE m.digest = b.digest)
  AND NOT EXISTS (SELECT FROM thumbnails t WHERE t.digest = b.digest)
"""


class MediaRow(NamedTuple):
    """A media id. `digest` None: reserved until `expires_ts` (ms). `uploader` None: another server's."""

    server_name: str
    media_id: str
    digest: bytes | None
    size: int | None
    content_type: str | None
    filename: str | None
    uploader: str | None
    expires_ts: int | None
    used_ts: int


class NewMedia(NamedTuple):
    """What an id gets."""

    digest: bytes
    size: int
    content_type: str | None
    filename: str | None


class ThumbnailKey(NamedTuple):
    """Which thumbnail of a blob."""

    source: bytes
    width: int
    height: int
    crop: bool
    animated: bool


class ThumbnailRow(NamedTuple):
    """A thumbnail that was made."""

    digest: bytes
    size: int
    content_type: str


class MediaStore:
    """Keeps them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, digest: bytes, size: int, now: int) -> None:
        """Announce that the file of a blob is about to be put in its place."""
        await self._database.execute("media_keep", _KEEP, (digest, size, now))

    async def add(self, server_name: str, media_id: str, new: NewMedia, uploader: str, now: int) -> None:
        """A new id with content. One that is there already stays as it is."""
        params = (server_name, media_id, *new, uploader, now, now)
        await self._database.execute("media_add", _ADD, params)

    async def put_fetched(self, server_name: str, media_id: str, new: NewMedia, now: int) -> None:
        """What another server gave for an id of its own, in place of what it gave before."""
        params = (server_name, media_id, *new, now, now)
        await self._database.execute("media_put_fetched", _PUT_FETCHED, params)

    async def reserve(
        self, server_name: str, media_id: str, uploader: str, *, now: int, expires: int, most: int
    ) -> bool:
        """A new id without content; False where the uploader has `most` of them already."""
        params = {
            "server": server_name,
            "media_id": media_id,
            "uploader": uploader,
            "now": now,
            "expires": expires,
            "most": most,
        }
        return await self._database.execute("media_reserve", _RESERVE, params) == 1

    async def fill(self, server_name: str, media_id: str, new: NewMedia, uploader: str, now: int) -> bool:
        """Give a reserved id its content, and tell every process; False where it is not theirs, filled or expired."""
        params = (*new, now, server_name, media_id, uploader, now)
        return await self._database.fetch_one("media_fill", _FILL, params, retry=False) is not None

    async def find(self, server_name: str, media_id: str) -> MediaRow | None:
        """An id, expired reservations among them."""
        row = await self._database.fetch_one("media_find", _FIND, (server_name, media_id))
        return None if row is None else MediaRow._make(_with_bytes(row, 2))

    async def used(self, server_name: str, media_id: str, now: int, before: int) -> None:
        """Note that it was read now, unless that was noted since `before`."""
        await self._database.execute("media_used", _USED, (now, server_name, media_id, before))

    async def uploaded_bytes(self, user_id: str) -> int:
        """What a user's uploads hold."""
        row = await self._database.fetch_one("media_uploaded_bytes", _UPLOADED, (user_id,))
        return 0 if row is None else int(row[0])

    async def thumbnail(self, key: ThumbnailKey) -> ThumbnailRow | None:
        """One that was made, if it was."""
        row = await self._database.fetch_one("media_thumbnail", _THUMBNAIL, tuple(key))
        return None if row is None else ThumbnailRow._make(_with_bytes(row, 0))

    async def add_thumbnail(self, key: ThumbnailKey, made: ThumbnailRow, most: int) -> None:
        """One that was made; of a blob only `most` are kept."""
        params = {**key._asdict(), **made._asdict(), "most": most}
        await self._database.execute("media_add_thumbnail", _ADD_THUMBNAIL, params)

    async def expire(self, now: int) -> int:
        """Drop reservations that nobody used; how many."""
        return await self._database.execute("media_expire", _EXPIRE, (now,))

    async def evict(self, budget: int) -> int:
        """Drop what was fetched from other servers beyond so many bytes, the longest unread first; how many."""
        return await self._database.execute("media_evict", _EVICT, (budget,))

    async def unused(self, before: int, limit: int) -> list[bytes]:
        """Blobs that nothing names and that were not put in place since `before` (ms)."""
        rows = await self._database.fetch("media_unused", _UNUSED, (before, limit))
        return [bytes(row[0]) for row in rows]

    async def drop(self, digest: bytes, before: int, remove: Callable[[], Awaitable[None]]) -> bool:
        """Drop a blob that still nothing names, and its file with it; whether it went.

        Who keeps the same bytes anew meanwhile waits at the row until the file is gone, and then puts it back.
        """

        async def work(transaction: Transaction) -> bool:
            if not await transaction.execute("media_drop", _DROP, (digest, before)):
                return False
            await remove()
            return True

        return await self._database.transaction("media_drop", work)


def _with_bytes(row: tuple[object, ...], at: int) -> tuple[object, ...]:
    """The row with its digest as bytes: the driver gives a view."""
    value = row[at]
    return row if value is None else (*row[:at], bytes(value), *row[at + 1 :])  # type: ignore[call-overload]
