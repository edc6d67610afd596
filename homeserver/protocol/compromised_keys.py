# SPDX-License-Identifier: Apache-2.0
"""Signing keys whose private half everybody has: nobody's signature by them proves anything.

Owns the list, by SHA-256 of the public key, and nothing of what is refused because of it.
"""

from base64 import b64decode
from hashlib import sha256
from typing import Final

from homeserver.protocol.signing import VerifyKey
from homeserver.protocol.unpadded_base64 import decode_base64

_COMPROMISED: Final = frozenset(
    sha256(b64decode(public_key)).digest()
    for public_key in (
        # Shipped with a deployment chart, so that every installation signed with it (CVE-2026-24044).
        "l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og=",
    )
)


def is_compromised(key: VerifyKey) -> bool:
    """Whether the key's private half is public."""
    return sha256(decode_base64(key.to_base64())).digest() in _COMPROMISED
