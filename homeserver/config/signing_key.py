# SPDX-License-Identifier: Apache-2.0
"""The key this server signs with, in `data_dir`/signing.key.

Owns the file: made on the first start, read on the others, in the form other homeservers use, one line
`ed25519 <version> <seed in unpadded Base64>`, so that a key can be brought along. Signing is
`protocol.signing`'s.
"""

import secrets
import string
from pathlib import Path
from typing import Final

from homeserver.config.errors import StartRefused
from homeserver.config.private_file import load_or_create
from homeserver.protocol.compromised_keys import is_compromised
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.signing import ALGORITHM, SigningKey
from homeserver.protocol.unpadded_base64 import decode_base64, encode_base64

FILE_NAME: Final = "signing.key"

_VERSION_ALPHABET: Final = string.ascii_letters + string.digits


def load_or_create_signing_key(data_dir: Path) -> SigningKey:
    """The server's signing key, made and stored with mode 0600 if there is none yet.

    Raises StartRefused if the file cannot be used; it is never replaced, because other servers hold the key's
    public half against us.
    """
    path = data_dir / FILE_NAME
    return _parse(load_or_create(path, _new_key), path)


def _new_key() -> str:
    # The version is random, so that a server that lost its data does not sign with another key under one
    # name.
    version = "a_" + "".join(secrets.choice(_VERSION_ALPHABET) for _ in range(6))
    return f"{ALGORITHM} {version} {encode_base64(secrets.token_bytes(32))}\n"


def _parse(text: str, path: Path) -> SigningKey:
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1 or len(lines[0]) != 3:
        raise StartRefused(f'{path} is not a signing key: expected one line "{ALGORITHM} <version> <Base64>"')
    algorithm, version, seed = lines[0]
    try:
        key = SigningKey.from_seed(f"{algorithm}:{version}", decode_base64(seed))
    except (IdentifierError, ValueError) as error:
        raise StartRefused(f"{path} is not a signing key: {error}") from error
    if is_compromised(key.verify_key):
        raise StartRefused(
            f"{path} holds a signing key that everybody has, so that anybody could speak for this server and others "
            "refuse it; move the file away to have another made"
        )
    return key
