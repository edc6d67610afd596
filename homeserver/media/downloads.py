# SPDX-License-Identifier: Apache-2.0
"""Finding media: here, or at the server whose it is, which is asked once for all who wait.

Owns waiting for uploads that were announced, and keeping what was fetched. A server that had nothing is not asked again
for a while, so that a broken picture costs one request and not one per reader.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from twisted.internet.defer import Deferred

from homeserver.errors import InvalidParam, LimitExceeded, MatrixError, NotFound, NotYetUploaded
from homeserver.media.blobs import Blobs
from homeserver.media.content_types import UNKNOWN, clean_type
from homeserver.media.remote import RemoteMedia
from homeserver.protocol.identifiers import is_valid_server_name
from storage.media import MediaRow, MediaStore, NewMedia

log = logging.getLogger(__name__)

LONGEST_WAIT: Final = 60_000
"""How long (ms) an upload may be waited for, whatever is asked."""
DEFAULT_WAIT: Final = 20_000
_NOTED_EVERY: Final = 3600 * 1000
_REMEMBERED: Final = 60_000
"""How long (ms) it is remembered that another server had nothing."""
_MOST_REMEMBERED: Final = 10_000
_MOST_FETCHES: Final = 50
"""Fetches from other servers at once."""
_MOST_FROM_ONE: Final = 20
"""From one of them: a server that is slow must not keep people from the media of all others."""
_BUSY_MS: Final = 2000
_FETCHED: Final = "what is fetched from other servers"
"""Whose that is on its way in: however much there is of it, it leaves room for uploads."""
_MEDIA_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")


class Media(Struct, frozen=True):
    """Something that is here."""

    digest: bytes
    path: Path
    size: int
    content_type: str
    filename: str | None
    remote: bool


class Downloads:
    """Finds media for clients, and for other servers."""

    def __init__(
        self,
        reactor: Any,
        *,
        server_name: str,
        store: MediaStore,
        blobs: Blobs,
        remote: RemoteMedia,
        max_remote_size: int,
        now: Callable[[], int],
    ) -> None:
        self._reactor = reactor
        self._server_name = server_name
        self._store = store
        self._blobs = blobs
        self._remote = remote
        self._max_remote_size = max_remote_size
        self._now = now
        self._waiting: dict[str, list[Deferred[None]]] = {}
        self._fetching: dict[tuple[str, str], list[Deferred[Media]]] = {}
        self._nothing: dict[tuple[str, str], tuple[int, MatrixError]] = {}
        self._fetched = 0
        """Media that have come from other servers."""

    async def find(self, server_name: str, media_id: str, *, timeout_ms: int = DEFAULT_WAIT) -> Media:
        """Media of any server. Raises InvalidParam, NotFound, NotYetUploaded, and as `RemoteMedia.fetch`."""
        if not _MEDIA_ID.fullmatch(media_id) or not is_valid_server_name(server_name):
            raise InvalidParam("That is no content URI")
        if server_name == self._server_name:
            return await self.own(media_id, timeout_ms=timeout_ms)
        fetched = self._fetched
        media = await self._kept(server_name, media_id)
        if media is None and fetched != self._fetched:  # it may have come while its absence was being told
            media = await self._kept(server_name, media_id)
        return media or await self._fetch((server_name, media_id), _bounded(timeout_ms))

    async def _kept(self, server_name: str, media_id: str) -> Media | None:
        """Another server's, if it is here."""
        row = await self._store.find(server_name, media_id)
        if row is None or row.digest is None or not await self._blobs.holds(row.digest):
            return None
        await self._note_use(row)
        return self._media(row)

    async def own(self, media_id: str, *, timeout_ms: int = DEFAULT_WAIT) -> Media:
        """Media of this server. Raises NotFound, NotYetUploaded."""
        if not _MEDIA_ID.fullmatch(media_id):
            raise NotFound("There is no such media")
        row = await self._store.find(self._server_name, media_id)
        if row is not None and row.digest is None and self._now() < (row.expires_ts or 0):
            row = await self._uploaded(media_id, _bounded(timeout_ms))
        if row is None or row.digest is None:
            raise NotFound("There is no such media")
        if not await self._blobs.holds(row.digest):
            log.error(
                "a file is missing", extra={"fields": {"media_id": media_id, "digest": row.digest.hex()}}
            )
            raise NotFound("The file of that media is lost")
        return self._media(row)

    def heard(self, media_id: str) -> None:
        """An announced upload is complete; called for those of every process."""
        for waiting in self._waiting.pop(media_id, ()):
            waiting.callback(None)

    # Waiting for an upload

    async def _uploaded(self, media_id: str, timeout_ms: int) -> MediaRow:
        waiting: Deferred[None] = Deferred()
        self._waiting.setdefault(media_id, []).append(waiting)
        try:
            row = await self._store.find(self._server_name, media_id)  # it may have come just now
            if row is not None and row.digest is not None:
                return row
            waiting.addTimeout(timeout_ms / 1000, self._reactor, lambda *_: None)
            await waiting
        finally:
            others = self._waiting.get(media_id)
            if others is not None and waiting in others:
                others.remove(waiting)
                if not others:
                    del self._waiting[media_id]
        row = await self._store.find(self._server_name, media_id)
        if row is None:
            raise NotFound("There is no such media")
        if row.digest is None:
            raise NotYetUploaded
        return row

    # From other servers

    async def _fetch(self, key: tuple[str, str], timeout_ms: int) -> Media:
        until = self._now() + timeout_ms
        self._check_known_nothing(key)
        while (others := self._fetching.get(key)) is not None:
            waiting: Deferred[Media] = Deferred()
            others.append(waiting)
            try:
                return await waiting
            except NotYetUploaded:
                # That is the patience of whoever began it. Who has more goes on, one of them for all.
                timeout_ms = until - self._now()
                if timeout_ms <= 0:
                    raise
        from_it = sum(server_name == key[0] for server_name, _ in self._fetching)
        if len(self._fetching) >= _MOST_FETCHES or from_it >= _MOST_FROM_ONE:
            raise LimitExceeded(_BUSY_MS, "The server is busy fetching other media")
        self._fetching[key] = []
        return await self._fetch_and_tell(key, timeout_ms)

    async def _fetch_and_tell(self, key: tuple[str, str], timeout_ms: int) -> Media:
        try:
            media = await self._fetch_once(key, timeout_ms)
        except BaseException as error:
            if isinstance(error, MatrixError):
                self._remember_nothing(key, error)
            for waiting in self._fetching.pop(key):
                waiting.errback(error)
            raise
        self._fetched += 1
        for waiting in self._fetching.pop(key):
            waiting.callback(media)
        return media

    async def _fetch_once(self, key: tuple[str, str], timeout_ms: int) -> Media:
        server_name, media_id = key
        spool = self._blobs.spools.open(self._max_remote_size, _FETCHED)
        try:
            fetched = await self._remote.fetch(server_name, media_id, spool, timeout_ms=timeout_ms)
            size = spool.size
            digest = await self._blobs.keep(spool)
        finally:
            spool.discard()
        new = NewMedia(digest, size, clean_type(fetched.content_type), fetched.filename)
        await self._store.put_fetched(server_name, media_id, new, self._now())
        return Media(
            digest, self._blobs.path(digest), size, new.content_type or UNKNOWN, new.filename, remote=True
        )

    def _check_known_nothing(self, key: tuple[str, str]) -> None:
        until, error = self._nothing.get(key, (0, None))
        if error is not None and self._now() < until:
            raise type(error)(error.message)
        self._nothing.pop(key, None)

    def _remember_nothing(self, key: tuple[str, str], error: MatrixError) -> None:
        if isinstance(error, NotYetUploaded | LimitExceeded):
            return
        if len(self._nothing) >= _MOST_REMEMBERED:
            self._nothing.pop(next(iter(self._nothing)))
        self._nothing[key] = (self._now() + _REMEMBERED, error)

    async def _note_use(self, row: MediaRow) -> None:
        now = self._now()
        if row.used_ts < now - _NOTED_EVERY:
            await self._store.used(row.server_name, row.media_id, now, now - _NOTED_EVERY)

    def _media(self, row: MediaRow) -> Media:
        assert row.digest is not None
        assert row.size is not None
        return Media(
            row.digest,
            self._blobs.path(row.digest),
            row.size,
            row.content_type or UNKNOWN,
            row.filename,
            remote=row.uploader is None,
        )


def _bounded(timeout_ms: int) -> int:
    return max(0, min(timeout_ms, LONGEST_WAIT))
