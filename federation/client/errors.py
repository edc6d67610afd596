# SPDX-License-Identifier: Apache-2.0
"""How a request to another server can fail."""

from __future__ import annotations

from typing import Any


class RemoteFailure(Exception):
    """The other server did not do what was asked."""

    def __init__(self, destination: str, reason: str) -> None:
        super().__init__(f"{destination}: {reason}")
        self.destination = destination
        self.reason = reason


class Unreachable(RemoteFailure):
    """Nothing usable came back: no address, no connection, no trust, no time left, too much, or not JSON."""


class BackingOff(Unreachable):
    """Not tried: the server failed lately and it is not time yet to ask it again."""


class NotAsked(RemoteFailure):
    """Too much was under way on this side to ask: nothing is known of the server."""


class RemoteError(RemoteFailure):
    """The server answered with an error."""

    def __init__(self, destination: str, status: int, errcode: str, error: str, body: Any) -> None:
        super().__init__(destination, f"{status} {errcode}: {error}")
        self.status = status
        self.errcode = errcode
        self.error = error
        self.body = body


class BadAnswer(RemoteFailure):
    """The server answered 200 with something that is not what the specification says."""
