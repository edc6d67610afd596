# SPDX-License-Identifier: Apache-2.0
"""Makes every secret, identifier and digest that accounts need, all from the operating system's randomness.

Owns their form. A token has 256 random bits, so its SHA-256 can be stored and looked up without a salt or a slow hash.
"""

import hashlib
import secrets
from collections.abc import Callable
from string import ascii_lowercase, ascii_uppercase, digits
from time import time
from typing import Final

Clock = Callable[[], int]
"""Tells the time in milliseconds since 1970."""

_TOKEN_BYTES: Final = 32


def now_ms() -> int:
    """The time, for everything that takes a `Clock`."""
    return int(time() * 1000)


def new_access_token() -> str:
    """An access token. The prefix lets secret scanners recognise one that leaked."""
    return "lares_at_" + secrets.token_urlsafe(_TOKEN_BYTES)


def new_refresh_token() -> str:
    """A refresh token."""
    return "lares_rt_" + secrets.token_urlsafe(_TOKEN_BYTES)


def new_secret() -> str:
    """A login token, OpenID token, session id or nonce, within the opaque identifier grammar."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def new_registration_token() -> str:
    """A registration token: 80 bits in letters and digits that a person can read out."""
    return "".join(secrets.choice(ascii_lowercase + "234567") for _ in range(16))


def new_device_id() -> str:
    """A device id as people see it in lists: ten capitals."""
    return "".join(secrets.choice(ascii_uppercase) for _ in range(10))


def new_localpart() -> str:
    """A user name for whoever chose none: 77 bits, never only digits, so that it collides with nobody's."""
    return "u" + "".join(secrets.choice(ascii_lowercase + digits) for _ in range(15))


def token_hash(token: str) -> bytes:
    """What is stored of a token. Any text has one: lone surrogates only ever come from a client's nonsense."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
