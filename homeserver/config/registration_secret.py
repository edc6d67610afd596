# SPDX-License-Identifier: Apache-2.0
"""The secret that proves who runs the server: who knows it may register users and admins.

Owns where it comes from: `registration.shared_secret`, or else `data_dir`/registration_secret, made by the
server and read by `lares register-user` on the same machine. What it opens is the registration endpoint's.
"""

import secrets
from pathlib import Path
from typing import Final

from homeserver.config.errors import StartRefused
from homeserver.config.private_file import load_or_create, read
from homeserver.config.sections import Config

FILE_NAME: Final = "registration_secret"


def load_or_create_registration_secret(config: Config) -> str:
    """The server's side: the configured secret, or the stored one, made with mode 0600 if there is none
    yet."""
    if config.registration.shared_secret is not None:
        return config.registration.shared_secret
    path = config.data_dir / FILE_NAME
    return _secret(load_or_create(path, lambda: secrets.token_urlsafe(32) + "\n"), path)


def read_registration_secret(config: Config) -> str:
    """The command line's side: the same secret, never made.

    Raises StartRefused if no server has stored one in this data_dir.
    """
    if config.registration.shared_secret is not None:
        return config.registration.shared_secret
    path = config.data_dir / FILE_NAME
    try:
        return _secret(read(path), path)
    except FileNotFoundError as error:
        raise StartRefused(
            f"{path} does not exist: no server has run with this data_dir yet. "
            "Start the server first, and pass the --config it runs with, from the same folder."
        ) from error


def _secret(text: str, path: Path) -> str:
    secret = text.strip()
    if not secret:
        raise StartRefused(f"{path} is empty; remove it, and the server makes a new one")
    return secret
