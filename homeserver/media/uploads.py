# SPDX-License-Identifier: Apache-2.0
"""Uploads: at once, or to an id that was reserved before. Client-server API, "Content repository".

Owns ids, and how much one user may upload. An id is random and says nothing; it is a capability for whoever learns it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from homeserver.errors import CannotOverwriteMedia, Forbidden, LimitExceeded, NotFound
from homeserver.media.blobs import Blobs
from homeserver.media.content_types import clean_name, clean_type
from homeserver.spooling import Spool
from storage.media import MediaStore, NewMedia

MOST_PENDING: Final = 50
"""Reserved ids of one user that have no content yet."""
RESERVED_FOR: Final = 24 * 3600 * 1000
"""How long (ms) such an id waits."""
_RETRY_MS: Final = 60_000


class Uploads:
    """Takes what users bring."""

    def __init__(
        self,
        *,
        server_name: str,
        store: MediaStore,
        blobs: Blobs,
        max_size: int,
        user_quota: int,
        now: Callable[[], int],
    ) -> None:
        """`max_size`: bytes of one upload; `user_quota`: bytes of all of a user's."""
        self.max_size = max_size
        self._server_name = server_name
        self._store = store
        self._blobs = blobs
        self._quota = user_quota
        self._now = now

    async def upload(
        self, user_id: str, spool: Spool, *, content_type: str | None, filename: str | None
    ) -> str:
        """Keep a body; its content URI. Raises Forbidden over the user's quota."""
        new = await self._kept(user_id, spool, content_type, filename)
        media_id = _new_id()
        await self._store.add(self._server_name, media_id, new, user_id, self._now())
        return self._uri(media_id)

    async def reserve(self, user_id: str) -> tuple[str, int]:
        """A content URI for an upload to come, and until when (ms since 1970). Raises LimitExceeded."""
        media_id, now = _new_id(), self._now()
        expires = now + RESERVED_FOR
        if not await self._store.reserve(
            self._server_name, media_id, user_id, now=now, expires=expires, most=MOST_PENDING
        ):
            raise LimitExceeded(
                _RETRY_MS, f"{MOST_PENDING} uploads are announced already; finish some of them first"
            )
        return self._uri(media_id), expires

    async def fill(
        self,
        user_id: str,
        server_name: str,
        media_id: str,
        spool: Spool,
        *,
        content_type: str | None,
        filename: str | None,
    ) -> None:
        """Give a reserved id its content. Raises NotFound, Forbidden, CannotOverwriteMedia."""
        await self._check_reserved(user_id, server_name, media_id)
        new = await self._kept(user_id, spool, content_type, filename)
        if not await self._store.fill(server_name, media_id, new, user_id, self._now()):
            await self._check_reserved(user_id, server_name, media_id)  # says what happened meanwhile
            raise CannotOverwriteMedia

    async def _check_reserved(self, user_id: str, server_name: str, media_id: str) -> None:
        row = await self._store.find(server_name, media_id) if server_name == self._server_name else None
        if row is None or (row.expires_ts is not None and row.expires_ts <= self._now()):
            raise NotFound("That media id was not reserved, or its time is over")
        if row.uploader != user_id:
            raise Forbidden("Somebody else reserved that media id")
        if row.digest is not None:
            raise CannotOverwriteMedia

    async def _kept(
        self, user_id: str, spool: Spool, content_type: str | None, filename: str | None
    ) -> NewMedia:
        if await self._store.uploaded_bytes(user_id) + spool.size > self._quota:
            raise Forbidden("Your uploads have reached what one user may keep on this server")
        size = spool.size
        digest = await self._blobs.keep(spool)
        return NewMedia(digest, size, clean_type(content_type), clean_name(filename))

    def _uri(self, media_id: str) -> str:
        return f"mxc://{self._server_name}/{media_id}"


def _new_id() -> str:
    return secrets.token_urlsafe(18)
