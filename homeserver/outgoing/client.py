# SPDX-License-Identifier: Apache-2.0
"""The one HTTP client for every request this server makes.

Owns what all of them keep to: addresses are judged after resolution and on each redirect, every answer has a cap on
size and time, connections are used again, and each request is counted. Does not own what is asked for, nor retries
beyond the one that an idle connection's end calls for.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred

from homeserver.outgoing.address_policy import AddressPolicy
from homeserver.outgoing.connecting import Connecting
from homeserver.outgoing.errors import BadRedirect, ConnectionBroken, OutgoingError, TimedOut
from homeserver.outgoing.exchange import Caps, Collected, Sink, request_bytes
from homeserver.outgoing.metrics import OutgoingMetrics
from homeserver.outgoing.parsing import ResponseHead
from homeserver.outgoing.pool import ConnectionPool, PoolLimits
from homeserver.outgoing.targets import Place, Target, place_of, redirected

T = TypeVar("T")

_REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SECRETS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class OutgoingResponse(Struct, frozen=True):
    """An answer. `headers` have lower-case names; `url` is where the redirects led, if a URL was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str | None = None


class _Request(Struct, frozen=True, kw_only=True):
    method: str
    target: Target
    path: str
    headers: Mapping[str, str]
    body: bytes | None = None
    policy: AddressPolicy
    repeatable: bool


class OutgoingClient:
    """Makes requests. What goes wrong is an OutgoingError; cancelling frees what a request holds."""

    def __init__(
        self,
        reactor: Any,
        *,
        connector: Connecting,
        policy: AddressPolicy,
        user_agent: str,
        limits: PoolLimits | None = None,
    ) -> None:
        self._reactor = reactor
        self._policy = policy
        self._user_agent = user_agent
        self._pool = ConnectionPool(reactor, connector, limits or PoolLimits())
        self.metrics = OutgoingMetrics(lambda: self._pool.figures)

    async def request(
        self,
        method: str,
        target: Target,
        path: str,
        *,
        caps: Caps,
        purpose: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        repeatable: bool | None = None,
        policy: AddressPolicy | None = None,
    ) -> OutgoingResponse:
        """One request to a target, no redirect followed. `path` carries the query and is percent-encoded already.

        `repeatable`: whether sending it twice does no harm, by default as HTTP says of the method; then a request that
        an idle connection swallowed is sent again over a new one. `policy`: other ranges than those configured, for
        addresses an administrator wrote down. Raises OutgoingError.
        """
        request = _Request(
            method=method,
            target=target,
            path=path,
            headers=self._headers(headers),
            body=body,
            policy=policy or self._policy,
            repeatable=method in _REPEATABLE if repeatable is None else repeatable,
        )
        sink = Collected()
        head = await self._counted(self._send(request, caps, sink), purpose, caps.timeout)
        return OutgoingResponse(head.status, head.headers, sink.body())

    async def stream(
        self,
        target: Target,
        path: str,
        sink: Sink,
        *,
        caps: Caps,
        purpose: str,
        headers: Mapping[str, str] | None = None,
        policy: AddressPolicy | None = None,
    ) -> ResponseHead:
        """GET a target, the body handed to a sink as it comes; the head, when it is complete.

        The sink sees the head first and ends the request by raising. Raises OutgoingError and what the sink raises.
        """
        request = _Request(
            method="GET",
            target=target,
            path=path,
            headers=self._headers(headers),
            policy=policy or self._policy,
            repeatable=True,
        )
        return await self._counted(self._send(request, caps, sink), purpose, caps.timeout)

    async def fetch(
        self,
        url: str,
        *,
        caps: Caps,
        purpose: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        redirects: int = 0,
        policy: AddressPolicy | None = None,
    ) -> OutgoingResponse:
        """A request to a URL. Up to `redirects` are followed, for GET and HEAD only; with 0 they are answers as any.

        Raises OutgoingError: BadRedirect after too many, in a circle, or from https to http.
        """
        following = redirects if method in ("GET", "HEAD") else 0
        place = place_of(url)
        request = _Request(
            method=method,
            target=place.target,
            path=place.path,
            headers=self._headers(headers),
            body=body,
            policy=policy or self._policy,
            repeatable=method in _REPEATABLE,
        )
        return await self._counted(self._follow(request, place, caps, following), purpose, caps.timeout)

    async def stream_url(
        self,
        url: str,
        sink: Sink,
        *,
        caps: Caps,
        purpose: str,
        headers: Mapping[str, str] | None = None,
        policy: AddressPolicy | None = None,
    ) -> ResponseHead:
        """As `stream`, for a URL. No redirect is followed: the sink sees it and may ask for the next itself."""
        place = place_of(url)
        return await self.stream(
            place.target, place.path, sink, caps=caps, purpose=purpose, headers=headers, policy=policy
        )

    def close(self) -> None:
        """End idle connections and refuse new requests; those under way end by themselves or by their timeout."""
        self._pool.close()

    def _headers(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        return {"User-Agent": self._user_agent, "Accept-Encoding": "gzip", **(headers or {})}

    async def _follow(self, request: _Request, place: Place, caps: Caps, redirects: int) -> OutgoingResponse:
        seen = {place.url}
        while True:
            sink = Collected()
            head = await self._send(request, caps, sink)
            location = head.headers.get("location")
            if not redirects or head.status not in _REDIRECTS or location is None:
                return OutgoingResponse(head.status, head.headers, sink.body(), place.url)
            there = redirected(place, location)
            if there.url in seen:
                raise BadRedirect("redirected in a circle")
            if len(seen) > redirects:
                raise BadRedirect(f"redirected more than {redirects} times")
            seen.add(there.url)
            headers = request.headers
            if there.origin != place.origin:
                headers = {name: value for name, value in headers.items() if name.lower() not in _SECRETS}
            request = replace(request, target=there.target, path=there.path, headers=headers)
            place = there

    async def _send(self, request: _Request, caps: Caps, sink: Sink) -> ResponseHead:
        data = request_bytes(
            request.method, request.path, request.target.host_header, request.headers, request.body
        )
        connection = await self._pool.take(request.target, request.policy)
        swallowed = connection.used and request.repeatable
        try:
            return await connection.exchange(
                data, method=request.method, max_size=caps.max_size, stall=caps.stall, sink=sink
            )
        except ConnectionBroken as error:
            # The other side ended a connection that had been idle while the request was on its way.
            if error.answered or not swallowed:
                raise
        finally:
            self._pool.give_back(connection, request.target, request.policy)
        connection = await self._pool.take(request.target, request.policy, fresh=True)
        try:
            return await connection.exchange(
                data, method=request.method, max_size=caps.max_size, stall=caps.stall, sink=sink
            )
        finally:
            self._pool.give_back(connection, request.target, request.policy)

    async def _counted(self, work: Coroutine[Any, Any, T], purpose: str, timeout: float) -> T:
        """Do the work within the time, and count what became of it."""
        began = self._reactor.seconds()
        outcome = "cancelled"
        under_way = Deferred.fromCoroutine(work)
        expired: list[bool] = []
        timer = self._reactor.callLater(timeout, self._expire, under_way, expired)
        try:
            result = await under_way
            status = getattr(result, "status", 0)
            outcome = f"{status // 100}xx"
            return result
        except CancelledError:
            if not expired:
                raise
            outcome = TimedOut.outcome
            raise TimedOut(f"no answer within {timeout:g} seconds") from None
        except OutgoingError as error:
            outcome = error.outcome
            raise
        except Exception:
            outcome = "refused_by_sink"
            raise
        finally:
            if timer.active():
                timer.cancel()
            self.metrics.observe(purpose, outcome, self._reactor.seconds() - began)

    def _expire(self, under_way: Deferred[T], expired: list[bool]) -> None:
        expired.append(True)
        under_way.cancel()
