# SPDX-License-Identifier: Apache-2.0
"""Signed requests to other servers.

Owns the form of a request (path, query, body, signature), reading the answer, and what failures mean: which of them
count against a server, and which error the caller gets. Does not own where a server is (`wire`), whether it is worth
trying (`availability`), nor what answers should look like (`calls`).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from msgspec import Struct

from federation.authentication import authorization
from federation.client.availability import Availability, Patience
from federation.client.errors import BackingOff, RemoteError, Unreachable
from federation.client.metrics import ClientMetrics
from federation.client.wire import Answer, Wire
from homeserver.errors import MatrixError
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.identifiers import is_valid_server_name
from homeserver.protocol.signing import SigningKey
from homeserver.web.bodies import parse_signed

log = logging.getLogger(__name__)

Query = Mapping[str, str | Sequence[str]]
DEFAULT_TIMEOUT: Final = 30.0
DEFAULT_SIZE: Final = 32 * 2**20
FEDERATION: Final = "/_matrix/federation/"
POLICY: Final = "/_matrix/policy/"
#: What a proxy says of a server that is away. A 500 is not among them: one request that breaks a server must not
#: keep all others from it.
_AWAY: Final = frozenset({502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 530})
_MOST_ERROR_TEXT: Final = 500


class FederationClient:
    """Asks other servers in this server's name.

    Every method gives the answer's JSON (any integer exactly, no NaN) and raises RemoteError for an answer with an
    error status, BackingOff where the server was not tried, Unreachable where nothing usable came back.

    `path` holds the segments after `/_matrix/federation` (`under`: another prefix), such as ("v2", "send_join",
    room_id, event_id); they are percent-encoded here. `timeout` is in seconds, `max_size` the answer's, in bytes.
    """

    def __init__(
        self,
        *,
        server_name: str,
        signing_key: SigningKey,
        wire: Wire,
        availability: Availability,
        metrics: ClientMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server_name = server_name
        self._signing_key = signing_key
        self._wire = wire
        self._availability = availability
        self._metrics = metrics
        self._clock = clock

    async def get(
        self,
        destination: str,
        path: Sequence[str],
        *,
        query: Query | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_size: int = DEFAULT_SIZE,
        patience: Patience = Patience.NORMAL,
    ) -> Any:
        """GET."""
        how = _How(query, None, timeout, max_size, patience)
        return await self._request(destination, "GET", path, how)

    async def put(
        self,
        destination: str,
        path: Sequence[str],
        body: Mapping[str, Any] | bytes,
        *,
        query: Query | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_size: int = DEFAULT_SIZE,
        patience: Patience = Patience.NORMAL,
    ) -> Any:
        """PUT. A body given as bytes is canonical JSON already, as `encode_checked` makes it."""
        how = _How(query, _encoded(body), timeout, max_size, patience)
        return await self._request(destination, "PUT", path, how)

    async def post(
        self,
        destination: str,
        path: Sequence[str],
        body: Mapping[str, Any] | bytes,
        *,
        under: str = FEDERATION,
        repeatable: bool = False,
        query: Query | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_size: int = DEFAULT_SIZE,
        patience: Patience = Patience.NORMAL,
    ) -> Any:
        """POST, otherwise as `put`; `repeatable` as `Wire.send` has it."""
        how = _How(query, _encoded(body), timeout, max_size, patience, under, repeatable)
        return await self._request(destination, "POST", path, how)

    async def _request(self, destination: str, method: str, path: Sequence[str], how: "_How") -> Any:
        endpoint, content = path[1], how.content
        self._check(destination, endpoint, how.patience)
        target = target_of(path, how.query, how.under)
        headers = {
            "Authorization": authorization(
                origin=self._server_name,
                destination=destination,
                key=self._signing_key,
                method=method,
                target=target,
                content=content,
            )
        }
        if content is not None:
            headers["Content-Type"] = "application/json"
        started, outcome = self._clock(), "unreachable"
        try:
            answer = await self._wire.send(
                destination,
                method,
                target,
                headers=headers,
                body=content,
                timeout=how.timeout,
                max_size=how.max_size,
                repeatable=how.repeatable,
            )
            outcome = _outcome(answer.status)
            value = self._read(destination, answer)
        except Unreachable as error:
            outcome = "unreachable" if outcome == "unreachable" else "bad"
            self._availability.failed(destination)
            self._log(destination, method, endpoint, error.reason, started)
            raise
        except RemoteError as error:
            if error.status in _AWAY:
                self._availability.failed(destination)
            else:
                self._availability.succeeded(destination)
            self._log(destination, method, endpoint, error.reason, started)
            raise
        finally:
            self._metrics.observe(endpoint, outcome, self._clock() - started)
        self._availability.succeeded(destination)
        return value

    def _check(self, destination: str, endpoint: str, patience: Patience) -> None:
        if not is_valid_server_name(destination):
            raise Unreachable(destination[:255], "not a server name")
        if destination == self._server_name:
            raise Unreachable(destination, "that is this server itself")
        if patience is Patience.NORMAL and not self._availability.may_try(destination):
            self._metrics.observe(endpoint, "backing_off", 0.0)
            raise BackingOff(destination, "failed lately and is not tried again yet")

    def _read(self, destination: str, answer: Answer) -> Any:
        """The answer's JSON. Raises RemoteError and Unreachable."""
        if answer.status != 200:
            raise _error(destination, answer)
        try:
            return parse_signed(answer.body)
        except MatrixError as error:
            raise Unreachable(destination, f"the answer is no JSON of ours: {error.message}") from error

    def _log(self, destination: str, method: str, endpoint: str, reason: str, started: float) -> None:
        fields = {
            "destination": destination,
            "method": method,
            "endpoint": endpoint,
            "reason": reason,
            "seconds": round(self._clock() - started, 3),
        }
        log.info("another server did not do as asked", extra={"fields": fields})


class _How(Struct, frozen=True):
    """What a request is besides its method and path."""

    query: Query | None
    content: bytes | None
    timeout: float
    max_size: int
    patience: Patience
    under: str = FEDERATION
    repeatable: bool = False


def target_of(path: Sequence[str], query: Query | None, under: str = FEDERATION) -> str:
    """Path and query as they are sent and signed."""
    target = under + "/".join(quote(segment, safe="") for segment in path)
    if not query:
        return target
    pairs = [
        f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, given in query.items()
        for value in ((given,) if isinstance(given, str) else given)
    ]
    return f"{target}?{'&'.join(pairs)}" if pairs else target


def _encoded(body: Mapping[str, Any] | bytes) -> bytes:
    """Encoded once, canonically: the bytes that are signed are the bytes that are sent."""
    return body if isinstance(body, bytes) else encode_canonical(dict(body), strict=False)


def _outcome(status: int) -> str:
    if status == 200:
        return "ok"
    return "refused" if 400 <= status < 500 else "broken"


def _error(destination: str, answer: Answer) -> RemoteError:
    try:
        body = parse_signed(answer.body)
    except MatrixError:
        body = None
    fields = body if type(body) is dict else {}
    errcode, text = fields.get("errcode"), fields.get("error")
    return RemoteError(
        destination,
        answer.status,
        errcode if type(errcode) is str and len(errcode) <= 255 else "M_UNKNOWN",
        text[:_MOST_ERROR_TEXT] if type(text) is str else "",
        body,
    )
