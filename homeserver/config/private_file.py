# SPDX-License-Identifier: Apache-2.0
"""Small secrets in files that only the server's user may read, written once.

Owns the atomic creation: of several processes that start at once, all get the content of the one that came
first, and after a power cut the file is whole or absent. Does not know what a secret means.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from homeserver.config.errors import StartRefused


def load_or_create(path: Path, make: Callable[[], str]) -> str:
    """The text of `path`; where there is none yet, `make`'s, after it is safely on disk with mode 0600.

    Raises StartRefused if the file can be neither read nor made.
    """
    try:
        return read(path)
    except FileNotFoundError:
        pass
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path, make())
    except OSError as error:
        raise StartRefused(f"cannot write {path}: {error.strerror}") from error
    return read(path)


def read(path: Path) -> str:
    """The text of `path`. Raises FileNotFoundError if there is none, StartRefused if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise StartRefused(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error


def given_or_read(given: str | None, path: Path | None) -> str | None:
    """A secret that is configured as text or as the file that holds it, without the line's end; None for neither.

    Raises StartRefused if the file is missing, unreadable or empty.
    """
    if given is not None or path is None:
        return given
    try:
        secret = read(path).strip()
    except FileNotFoundError as error:
        raise StartRefused(f"cannot read {path}: {error.strerror}") from error
    if not secret:
        raise StartRefused(f"{path} is empty, and should hold a secret")
    return secret


def _create(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, it fails where another process was first
        except FileExistsError:
            return
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
