# SPDX-License-Identifier: Apache-2.0
"""`/.well-known/matrix/server` of other servers: fetched seldom, believed for as long as they say.

Owns reading and caching the documents (server-server API, "Resolving server names", step 3). An answer is kept as its
headers ask, between 5 minutes and 48 hours, 24 hours if they say nothing; a failure for longer each time, up to an
hour; what was delegated stays in force while the document cannot be fetched anew, up to 48 hours. Does not own what
follows from a delegation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import orjson
from msgspec import Struct
from msgspec.structs import replace

from federation.discovery.steps import delegation_problem
from homeserver.outgoing import Caps, OutgoingClient, OutgoingError
from homeserver.outgoing.errors import Overloaded
from homeserver.outgoing.single_flight import SingleFlight

DEFAULT_SECONDS: Final = 24 * 3600.0
LONGEST_SECONDS: Final = 48 * 3600.0
SHORTEST_SECONDS: Final = 300.0
FIRST_FAILURE_SECONDS: Final = 300.0
LONGEST_FAILURE_SECONDS: Final = 3600.0
#: Seconds before a document is fetched again because the place it leads to does not answer.
DOUBTED_SECONDS: Final = 600.0
MAX_REDIRECTS: Final = 5
CAPS: Final = Caps(max_size=50 * 1024, timeout=15.0, stall=10.0)
MAX_KEPT: Final = 20_000
MAX_UNDER_WAY: Final = 1_000


class WellKnown(Struct, frozen=True):
    """What a host delegates to. `problem` says why there is no (new) answer; a delegation may stand all the same."""

    delegated_name: str | None
    problem: str | None = None


class _Kept(Struct, frozen=True):
    answer: WellKnown
    fetched: float
    until: float
    valid_until: float
    """Until when a delegation outlives failures."""
    failures: int = 0


class WellKnownCache:
    """The documents of other servers. `seconds` is the clock of the cache, `now` the time of day since 1970."""

    def __init__(
        self, client: OutgoingClient, *, seconds: Callable[[], float], now: Callable[[], float]
    ) -> None:
        self._client = client
        self._seconds = seconds
        self._now = now
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._under_way: SingleFlight[str, WellKnown] = SingleFlight(MAX_UNDER_WAY)

    async def look_up(self, hostname: str) -> WellKnown:
        """What a DNS name, in lower case, delegates to. Raises Overloaded only."""
        kept = self._kept.get(hostname)
        if kept is not None and kept.until > self._seconds():
            self._kept.move_to_end(hostname)
            return kept.answer
        return await self._under_way.do(hostname, lambda: self._refresh(hostname))

    def doubt(self, hostname: str) -> None:
        """Where a delegation leads nobody answers: look soon whether it has changed."""
        kept = self._kept.get(hostname)
        if kept is not None and kept.failures == 0:
            self._kept[hostname] = replace(kept, until=min(kept.until, kept.fetched + DOUBTED_SECONDS))

    async def _refresh(self, hostname: str) -> WellKnown:
        before = self._kept.get(hostname)
        fetched = await self._fetch(hostname)
        kept = following(before, fetched, self._seconds())
        self._kept[hostname] = kept
        self._kept.move_to_end(hostname)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return kept.answer

    async def _fetch(self, hostname: str) -> Fetched:
        try:
            response = await self._client.fetch(
                f"https://{hostname}/.well-known/matrix/server",
                redirects=MAX_REDIRECTS,
                caps=CAPS,
                purpose="well_known",
            )
        except Overloaded:
            raise  # our own trouble says nothing of theirs, and is not kept
        except OutgoingError as error:
            return Fetched(None, str(error), lasting=False)
        if response.status != 200:
            lasting = response.status < 500 and response.status != 429
            return Fetched(None, f"the answer was HTTP {response.status}", lasting=lasting)
        name, problem = read_document(response.body)
        return Fetched(name, problem, lasting=True, seconds=kept_for(response.headers, self._now()))


class Fetched(Struct, frozen=True):
    """What came of one fetch. `lasting`: the server said so itself, rather than failed to say anything."""

    delegated_name: str | None
    problem: str | None
    lasting: bool
    seconds: float = DEFAULT_SECONDS


def following(before: _Kept | None, fetched: Fetched, now: float) -> _Kept:
    """What is kept after a fetch, given what was."""
    if fetched.delegated_name is not None:
        answer = WellKnown(fetched.delegated_name)
        return _Kept(answer, now, now + fetched.seconds, valid_until=now + LONGEST_SECONDS)
    failures = 1 if before is None else before.failures + 1
    wait = LONGEST_FAILURE_SECONDS if fetched.lasting else failure_seconds(failures)
    standing = None
    valid_until = now
    if before is not None and not fetched.lasting and before.valid_until > now:
        standing, valid_until = before.answer.delegated_name, before.valid_until
        wait = min(wait, valid_until - now)
    return _Kept(WellKnown(standing, fetched.problem), now, now + wait, valid_until, failures)


def failure_seconds(failures: int) -> float:
    """How long the n-th failure in a row is kept: twice as long each time."""
    return min(LONGEST_FAILURE_SECONDS, FIRST_FAILURE_SECONDS * 2.0 ** min(failures - 1, 10))


def read_document(body: bytes) -> tuple[str | None, str | None]:
    """The valid `m.server` of a document, or None and what is wrong. The content type does not matter."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None, "the document is not JSON"
    if not isinstance(document, dict):
        return None, "the document is not a JSON object"
    name = document.get("m.server")
    problem = delegation_problem(name)
    return (None, problem) if problem is not None else (name, None)


def kept_for(headers: Mapping[str, str], now: float) -> float:
    """The seconds an answer is kept by its `Cache-Control` or `Expires` header, within bounds (RFC 9111)."""
    directives = [part.strip().lower() for part in headers.get("cache-control", "").split(",")]
    if "no-store" in directives or "no-cache" in directives:
        return SHORTEST_SECONDS
    for directive in directives:
        name, _, value = directive.partition("=")
        if name == "max-age" and value.strip('"').isdecimal():
            age = headers.get("age", "0")
            fresh = min(float(value.strip('"')[:12]), LONGEST_SECONDS)
            return _bounded(fresh - (float(age[:12]) if age.isdecimal() else 0.0))
    expires = headers.get("expires")
    if expires is None:
        return DEFAULT_SECONDS
    try:
        # Against the other side's clock, if it tells: the span is what it means.
        began = parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else now
        return _bounded(parsedate_to_datetime(expires).timestamp() - began)
    except (ValueError, TypeError, OverflowError):
        return SHORTEST_SECONDS  # a date that is none means that it has expired


def _bounded(seconds: float) -> float:
    return min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS)
