# SPDX-License-Identifier: Apache-2.0
"""Requests over HTTP: finds the server, and tries its places in order until one takes the request.

Owns which failures send a request to the next place: only those after which the server cannot have seen it. Does not
own finding (`federation.discovery`) nor connections (`homeserver.outgoing`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from federation.client.errors import NotAsked, Unreachable
from federation.client.wire import Answer
from federation.discovery import DiscoveryBusy, DiscoveryFailed
from homeserver.needs import Protocol
from homeserver.outgoing import Caps, OutgoingClient, OutgoingError, ResponseHead, Sink, Target
from homeserver.outgoing.errors import AddressDenied, ConnectFailed, NameNotFound, Overloaded, TlsFailed

T = TypeVar("T")

_NOT_TAKEN: Final = (NameNotFound, AddressDenied, ConnectFailed, TlsFailed)
_PURPOSE: Final = "federation"
_LEAST_SECONDS: Final = 0.1


class Finding(Protocol):
    """Knows where servers are."""

    async def find(self, server_name: str) -> Sequence[Target]:
        """The places of a server, in the order to try them. Raises DiscoveryFailed."""
        ...

    def doubt(self, server_name: str) -> None:
        """None of the places took a request."""
        ...


class HttpWire:
    """The `Wire` of the real world."""

    def __init__(self, reactor: Any, *, discovery: Finding, http: OutgoingClient) -> None:
        self._reactor = reactor
        self._discovery = discovery
        self._http = http

    async def send(
        self,
        destination: str,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
        max_size: int,
        repeatable: bool = False,
    ) -> Answer:
        """As `Wire.send`."""

        async def ask(place: Target, left: float) -> Answer:
            response = await self._http.request(
                method,
                place,
                target,
                # A server that works on the state of a large room is silent all the while.
                caps=Caps(timeout=left, max_size=max_size, stall=left),
                purpose=_PURPOSE,
                headers=headers,
                body=body,
                repeatable=repeatable or None,
            )
            return Answer(response.status, response.body)

        return await self._somewhere(destination, timeout, ask)

    async def stream(
        self,
        destination: str,
        target: str,
        sink: Sink,
        *,
        headers: Mapping[str, str],
        timeout: float,
        max_size: int,
    ) -> ResponseHead:
        """GET, the body to a sink. Raises as `Wire.send`, and what the sink raises."""

        def ask(place: Target, left: float) -> Awaitable[ResponseHead]:
            caps = Caps(timeout=left, max_size=max_size)
            return self._http.stream(place, target, sink, caps=caps, purpose=_PURPOSE, headers=headers)

        return await self._somewhere(destination, timeout, ask)

    async def _somewhere(
        self, destination: str, timeout: float, ask: Callable[[Target, float], Awaitable[T]]
    ) -> T:
        """The first of a server's places that takes a request; `ask` is told how many seconds are left."""
        deadline = self._reactor.seconds() + timeout
        places = await self._places(destination, timeout)
        failure: OutgoingError | None = None
        for place in places:
            left = max(_LEAST_SECONDS, deadline - self._reactor.seconds())
            try:
                return await ask(place, left)
            except _NOT_TAKEN as error:
                failure = error
                if self._reactor.seconds() >= deadline:
                    break
            except Overloaded as error:
                raise NotAsked(destination, str(error)) from error
            except OutgoingError as error:
                raise Unreachable(destination, str(error)) from error
        self._discovery.doubt(destination)
        raise Unreachable(
            destination, str(failure) if failure is not None else "it has no place"
        ) from failure

    async def _places(self, destination: str, timeout: float) -> Sequence[Target]:
        looking: Deferred[Sequence[Target]] = Deferred.fromCoroutine(self._discovery.find(destination))
        try:
            return await looking.addTimeout(timeout, self._reactor)
        except DiscoveryBusy as error:
            raise NotAsked(destination, str(error)) from error
        except DiscoveryFailed as error:
            raise Unreachable(destination, str(error)) from error
        except DeferredTimeout as error:
            raise Unreachable(destination, f"not found within {timeout:g} seconds") from error
