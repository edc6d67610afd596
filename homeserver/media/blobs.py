# SPDX-License-Identifier: Apache-2.0
"""The files: where the bytes of a digest are, putting them there, taking them away.

Owns the folder `media` of `data_dir`. Which files there should be is `storage.media`'s. Where several machines serve
one database, they must share the folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from twisted.internet.threads import deferToThread

from homeserver.spooling import MOST_AT_ONCE, Spool, SpoolRoom
from storage.media import MediaStore


class Blobs:
    """Files by digest."""

    def __init__(
        self, directory: Path, store: MediaStore, now: Callable[[], int], *, largest: int = 0
    ) -> None:
        """`largest`: bytes of the largest upload, of which there is to be room for some at once."""
        self.spools = SpoolRoom(directory / "incoming", max(MOST_AT_ONCE, 4 * largest))
        self._directory = directory
        self._store = store
        self._now = now

    def path(self, digest: bytes) -> Path:
        """Where the bytes of a digest are, if they are here."""
        name = digest.hex()
        return self._directory / name[:2] / name[2:4] / name[4:]

    async def holds(self, digest: bytes) -> bool:
        """Whether they are: a folder may be lost, or restored from an older day than the database."""
        return await deferToThread(self.path(digest).is_file)

    async def keep(self, spool: Spool) -> bytes:
        """Put a body in its place, durably; its digest. Raises OSError."""
        digest = spool.digest
        # The row first: it is what keeps a sweep from taking the file away again.
        await self._store.keep(digest, spool.size, self._now())
        await deferToThread(spool.settle, self.path(digest))
        return digest

    async def keep_bytes(self, data: bytes) -> bytes:
        """As `keep`."""
        spool = self.spools.open(len(data))
        try:
            spool.write(data)
            return await self.keep(spool)
        finally:
            spool.discard()

    async def remove(self, digest: bytes) -> None:
        """Take a file away, if it is there."""

        def unlink() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.path(digest).unlink()

        await deferToThread(unlink)
