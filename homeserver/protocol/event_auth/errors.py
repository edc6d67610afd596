# SPDX-License-Identifier: Apache-2.0
"""The one error of event authorization."""

from typing import ClassVar

from homeserver.protocol.errors import ProtocolError


class AuthError(ProtocolError):
    """An event that the authorization rules of its room version reject. `str()` is the reason, for people."""

    errcode: ClassVar[str] = "M_FORBIDDEN"
