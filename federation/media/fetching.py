# SPDX-License-Identifier: Apache-2.0
"""Fetching media from the server whose it is.

Owns the request, a redirect to where the other server keeps its files, and the older request that asked for no
signature, for servers that know no other. A body goes to its spool as it comes, whatever its size. Redirects lead to
addresses that other people choose: the outgoing client judges each, and no credentials of ours go along.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import orjson

from federation.authentication import authorization
from federation.client.availability import Availability
from federation.client.client import target_of
from federation.client.errors import NotAsked, RemoteFailure
from federation.media.multipart import BadMultipart, TwoParts
from homeserver.errors import LimitExceeded, NotFound, NotYetUploaded, RemoteServerFailed, RemoteTooLarge
from homeserver.media.content_types import name_of
from homeserver.media.remote import Fetched
from homeserver.needs import Protocol
from homeserver.outgoing import Caps, Flow, OutgoingError, ResponseHead, Sink
from homeserver.outgoing.errors import TooLarge
from homeserver.protocol.signing import SigningKey
from homeserver.spooling import Spool, SpoolFull

log = logging.getLogger(__name__)

_SECONDS: Final = 120.0
"""For a whole file, besides the time its upload is waited for."""
_AROUND: Final = 128 * 1024
"""Bytes of an answer besides the media."""
_MOST_REDIRECTS: Final = 3
_MOST_ERROR: Final = 64 * 1024
_BUSY_MS: Final = 5000


class StreamingWire(Protocol):
    """See `federation.client.http_wire.HttpWire.stream`."""

    async def stream(
        self,
        destination: str,
        target: str,
        sink: Sink,
        *,
        headers: dict[str, str],
        timeout: float,
        max_size: int,
    ) -> ResponseHead: ...


class UrlStreaming(Protocol):
    """See `homeserver.outgoing.OutgoingClient.stream_url`."""

    async def stream_url(self, url: str, sink: Sink, *, caps: Caps, purpose: str) -> ResponseHead: ...


class FederatedMedia:
    """`homeserver.media.remote.RemoteMedia`."""

    def __init__(
        self,
        *,
        server_name: str,
        signing_key: SigningKey,
        wire: StreamingWire,
        http: UrlStreaming,
        availability: Availability,
        max_size: int,
    ) -> None:
        self._server_name = server_name
        self._signing_key = signing_key
        self._wire = wire
        self._http = http
        self._availability = availability
        self._max_size = max_size

    async def fetch(self, server_name: str, media_id: str, spool: Spool, *, timeout_ms: int) -> Fetched:
        """As `RemoteMedia.fetch`."""
        if not self._availability.may_try(server_name):
            raise RemoteServerFailed(f"{server_name} could not be reached lately; try again later")
        try:
            fetched = await self._signed(server_name, media_id, spool, timeout_ms)
            if fetched is None:
                fetched = await self._unsigned(server_name, media_id, spool, timeout_ms)
        except SpoolFull as full:
            raise _too_large() if full.alone else LimitExceeded(_BUSY_MS) from full
        except BadMultipart as error:
            log.info("media of %s made no sense: %s", server_name, error)
            raise RemoteServerFailed(f"{server_name} answered something that is no media") from error
        except NotAsked as error:
            raise LimitExceeded(_BUSY_MS, "The server is busy with other servers") from error
        except RemoteFailure as error:
            if isinstance(error.__cause__, TooLarge):
                raise _too_large() from error
            self._availability.failed(server_name)
            raise RemoteServerFailed(f"{server_name} could not be reached, or made no sense") from error
        self._availability.succeeded(server_name)
        return fetched

    async def _signed(self, server_name: str, media_id: str, spool: Spool, timeout_ms: int) -> Fetched | None:
        """The media; None where the server does not know the request."""
        target = target_of(("v1", "media", "download", media_id), {"timeout_ms": str(timeout_ms)})
        signature = authorization(
            origin=self._server_name,
            destination=server_name,
            key=self._signing_key,
            method="GET",
            target=target,
            content=None,
        )
        answer = _Multipart(spool)
        head = await self._asked(
            server_name,
            target,
            answer,
            headers={"Authorization": signature},
            timeout_ms=timeout_ms,
            max_size=self._max_size + _AROUND,
        )
        if head.status != 200:
            answer.refuse(server_name, head.status)
            return None
        assert answer.parts is not None
        if not answer.parts.done:
            raise BadMultipart("the answer is cut off")
        headers = answer.parts.headers
        if "location" in headers:
            return await self._elsewhere(server_name, headers["location"], spool)
        return Fetched(headers.get("content-type"), name_of(headers.get("content-disposition")))

    async def _unsigned(self, server_name: str, media_id: str, spool: Spool, timeout_ms: int) -> Fetched:
        """By the request of older servers, which must not ask others in turn."""
        where = f"/_matrix/media/v3/download/{quote(server_name, safe='')}/{quote(media_id, safe='')}"
        answer = _Plain(spool)
        head = await self._asked(
            server_name,
            f"{where}?allow_remote=false&allow_redirect=true&timeout_ms={timeout_ms}",
            answer,
            headers={},
            timeout_ms=timeout_ms,
            max_size=self._max_size,
        )
        return await self._followed(server_name, head, answer, spool, _MOST_REDIRECTS)

    async def _asked(
        self,
        server_name: str,
        target: str,
        answer: _Body,
        *,
        headers: dict[str, str],
        timeout_ms: int,
        max_size: int,
    ) -> ResponseHead:
        """The head of an answer whose body has gone to `answer`. Raises RemoteFailure, and RemoteServerFailed for one
        that broke off: a large file over a slow line says nothing against the server."""
        seconds = _SECONDS + timeout_ms / 1000
        try:
            return await self._wire.stream(
                server_name, target, answer, headers=headers, timeout=seconds, max_size=max_size
            )
        except RemoteFailure as error:
            if not answer.begun or isinstance(error.__cause__, TooLarge):
                raise
            raise RemoteServerFailed(f"{server_name} did not send all of it in time") from error

    async def _elsewhere(
        self, server_name: str, url: str, spool: Spool, redirects: int = _MOST_REDIRECTS
    ) -> Fetched:
        if not redirects or not url.startswith("https://"):
            raise BadMultipart("the answer leads nowhere")
        answer = _Plain(spool)
        try:
            head = await self._http.stream_url(
                url, answer, caps=Caps(timeout=_SECONDS, max_size=self._max_size), purpose="media"
            )
        except TooLarge as error:
            raise _too_large() from error
        except OutgoingError as error:
            # Which says nothing of the server itself.
            log.info("media of %s is elsewhere, and not had from there: %s", server_name, error)
            raise RemoteServerFailed(f"{server_name} led to where nothing is") from error
        return await self._followed(server_name, head, answer, spool, redirects - 1)

    async def _followed(
        self, server_name: str, head: ResponseHead, answer: _Plain, spool: Spool, redirects: int
    ) -> Fetched:
        if head.status == 200:
            return Fetched(head.headers.get("content-type"), name_of(head.headers.get("content-disposition")))
        if head.status in (301, 302, 307, 308) and "location" in head.headers:
            return await self._elsewhere(server_name, head.headers["location"], spool, redirects)
        answer.refuse(server_name, head.status)
        raise NotFound("The other server has no such media")


class _Body(ABC):
    """Where an answer goes: its body on, if it is one; what is said of a refusal, to be read."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._said = bytearray()
        self._on: Callable[[bytes], None] = self._hear
        self.begun = False
        """Whether the other server answered, be it not to the end."""

    def begin(self, head: ResponseHead, flow: Flow) -> None:
        """See `Sink`."""
        self.begun = True
        if head.status == 200:
            self._on = self._accept(head)

    def write(self, data: bytes) -> None:
        """See `Sink`."""
        self._on(data)

    @abstractmethod
    def _accept(self, head: ResponseHead) -> Callable[[bytes], None]:
        """Where the body goes."""

    def _hear(self, data: bytes) -> None:
        if len(self._said) < _MOST_ERROR:
            self._said += data

    def refuse(self, server_name: str, status: int) -> None:
        """Raise what a client is told of a refusal; returns where the server does not know the request."""
        try:
            said = orjson.loads(self._said)
        except orjson.JSONDecodeError:
            said = None
        errcode = said.get("errcode") if isinstance(said, dict) else None
        if errcode == "M_UNRECOGNIZED" and status in (404, 405, 400):
            return
        if errcode == "M_NOT_YET_UPLOADED":
            raise NotYetUploaded
        if errcode == "M_TOO_LARGE" or status == 413:
            raise _too_large()
        if status == 404 or errcode == "M_NOT_FOUND":
            raise NotFound("The other server has no such media")
        if status == 429:
            raise LimitExceeded(_BUSY_MS, f"{server_name} is asked too much")
        raise RemoteServerFailed(f"{server_name} does not give that media")


class _Multipart(_Body):
    """The answer to a signed request."""

    parts: TwoParts | None = None

    def _accept(self, head: ResponseHead) -> Callable[[bytes], None]:
        self.parts = TwoParts(head.headers.get("content-type", ""), self._spool.write)
        return self.parts.feed


class _Plain(_Body):
    """A file as it is."""

    def _accept(self, head: ResponseHead) -> Callable[[bytes], None]:
        return self._spool.write


def _too_large() -> RemoteTooLarge:
    return RemoteTooLarge("The content is too large to be fetched from its server")
