# SPDX-License-Identifier: Apache-2.0
"""Large bodies on their way in: kept on disk as they come, digested meanwhile, never whole in memory.

Owns one body (`Spool`) and the bound on what all of them hold together (`SpoolRoom`). Does not own where a body is kept
in the end: who takes it calls `settle`, and who opened it `discard` in any case. Pieces are written where they arrive:
they are tens of kilobytes and go to the page cache, which costs less than handing them to a thread; what waits for the
disk (`settle`) is for a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Final

MOST_AT_ONCE: Final = 2 * 2**30
"""Bytes of all bodies on their way in, of one process."""
_SHARE: Final = 4
"""One part of how many of that one owner may hold, or one body if that is more."""
_STALE: Final = 86400.0
"""Seconds after which a file is nobody's: its process died."""


class SpoolFull(Exception):
    """One body is too large, or all together are; `alone` tells which."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__("the body is too large" if alone else "too many bodies are on their way in")
        self.alone = alone


class SpoolRoom:
    """Where bodies wait, on the file system they will be kept on."""

    def __init__(self, directory: Path, most: int = MOST_AT_ONCE) -> None:
        self.directory = directory
        self._most = most
        self._held = 0
        self._held_by: Counter[str] = Counter()

    def open(self, most: int, owner: str = "") -> Spool:
        """A new body of at most so many bytes. `owner`: whose it is, empty while nobody knows. Raises OSError."""
        return Spool(self, most, owner)

    def sweep(self) -> None:
        """Remove what processes left behind that died. Blocks."""
        if not self.directory.is_dir():
            return
        for entry in self.directory.iterdir():
            with contextlib.suppress(OSError):
                if entry.stat().st_mtime < time.time() - _STALE:
                    entry.unlink()

    def take(self, count: int, owner: str, largest: int) -> None:
        """Count bytes in, for a body that may become as large as `largest`. Raises SpoolFull."""
        if self._held + count > self._most:
            raise SpoolFull(alone=False)
        if owner and self._held_by[owner] + count > max(self._most // _SHARE, largest):
            raise SpoolFull(alone=False)
        self._held += count
        self._held_by[owner] += count

    def give_back(self, count: int, owner: str) -> None:
        """Count bytes out."""
        self._held -= count
        self._held_by[owner] -= count
        if not self._held_by[owner]:
            del self._held_by[owner]

    def hand_over(self, count: int, owner: str, to: str) -> None:
        """Bytes that were counted in are another's."""
        self.give_back(count, owner)
        self._held += count
        self._held_by[to] += count


class Spool:
    """One body. Ends with `discard`, be it settled or not; a second `discard` does nothing."""

    def __init__(self, room: SpoolRoom, most: int, owner: str) -> None:
        self.size = 0
        self._room = room
        self._most = most
        self._owner = owner
        self._settled = False
        self._digest = hashlib.sha256()
        room.directory.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(dir=room.directory)
        self._path = Path(path)
        self._file: BinaryIO | None = os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> None:
        """One more piece. Raises SpoolFull, OSError."""
        assert self._file is not None, "the body has ended"
        if self.size + len(data) > self._most:
            raise SpoolFull(alone=True)
        self._room.take(len(data), self._owner, self._most)
        self.size += len(data)
        self._digest.update(data)
        self._file.write(data)

    def belongs_to(self, owner: str) -> None:
        """It is known by now whose it is, which counts from the next piece on."""
        if self._file is not None:
            self._room.hand_over(self.size, self._owner, owner)
            self._owner = owner

    @property
    def digest(self) -> bytes:
        """SHA-256 of what was written."""
        return self._digest.digest()

    def settle(self, place: Path) -> None:
        """Put the body there, durably, whatever was there before. Blocks. Raises OSError."""
        assert self._file is not None, "the body has ended"
        self._file.flush()
        os.fsync(self._file.fileno())
        _make_directory(place.parent)
        self._path.replace(place)
        self._settled = True
        _sync_directory(place.parent)

    def discard(self) -> None:
        """Nobody needs the body any more, or it is where it is kept."""
        if self._file is None:
            return
        if not self._settled:
            with contextlib.suppress(OSError):
                self._path.unlink()
        with contextlib.suppress(OSError):
            self._file.close()
        self._file = None
        self._room.give_back(self.size, self._owner)


def _make_directory(directory: Path) -> None:
    """With those above it, durably, where it is not there."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
