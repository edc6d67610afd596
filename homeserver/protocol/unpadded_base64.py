# SPDX-License-Identifier: Apache-2.0
"""Unpadded Base64, standard and URL-safe (appendices, "Unpadded Base64"). Owns nothing but the encoding."""

from base64 import b64decode, b64encode, urlsafe_b64encode
from binascii import Error as BinasciiError


def encode_base64(data: bytes) -> str:
    """``data`` in the standard alphabet without padding."""
    return b64encode(data).rstrip(b"=").decode("ascii")


def encode_url_safe_base64(data: bytes) -> str:
    """``data`` in the URL-safe alphabet without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64(text: str) -> bytes:
    """The bytes of standard Base64, padded or not (the specification asks to accept both).

    Raises ValueError for characters outside the alphabet and impossible lengths.
    """
    body = text.rstrip("=")
    try:
        return b64decode(body + "=" * (-len(body) % 4), validate=True)
    except BinasciiError as error:
        raise ValueError(f"not Base64: {error}") from error
