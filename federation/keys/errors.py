# SPDX-License-Identifier: Apache-2.0
"""Why a signature is not taken, beyond that it is wrong."""

from homeserver.protocol.errors import SignatureError


class KeyUnknown(SignatureError):
    """No key that could verify it is known, nor could be fetched now: later it might be."""


class KeyExpired(SignatureError):
    """The key is known, but was not valid any more when the event says to have been made."""
