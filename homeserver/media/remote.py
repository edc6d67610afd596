# SPDX-License-Identifier: Apache-2.0
"""What media asks of other servers; federation answers it."""

from __future__ import annotations

from msgspec import Struct

from homeserver.errors import NotFound
from homeserver.needs import Protocol
from homeserver.spooling import Spool


class Fetched(Struct, frozen=True):
    """What another server calls the body that it sent."""

    content_type: str | None
    filename: str | None


class RemoteMedia(Protocol):
    """Fetches from the server whose media it is."""

    async def fetch(self, server_name: str, media_id: str, spool: Spool, *, timeout_ms: int) -> Fetched:
        """Fill the spool. `timeout_ms`: how long the other server may wait for an upload that is to come.

        Raises NotFound, NotYetUploaded, RemoteServerFailed, RemoteTooLarge.
        """
        ...


class NoRemoteMedia:
    """There is no federation."""

    async def fetch(self, server_name: str, media_id: str, spool: Spool, *, timeout_ms: int) -> Fetched:
        """As `RemoteMedia.fetch`."""
        raise NotFound("Media of other servers cannot be reached from here")
