# SPDX-License-Identifier: Apache-2.0
"""Brakes on what one user, address or account may ask for: token buckets by class and key.

Owns the classes, their rates, and the arithmetic. A bucket holds `burst` tokens and gains `per_second`; a request takes
one; an empty bucket refuses with the exact time until the next. Memory is bounded: full buckets are forgotten, and
beyond `MOST_KEYS` the bucket used longest ago is.

Routes are counted under their `limit` by user or address. What a route cannot know (the account a log-in names, a
failed password) its handler checks: `limits.check("login_account", user_id)` takes a token, `limits.peek` only asks,
`limits.take` charges for what has happened.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import Final

from homeserver.errors import LimitExceeded

MOST_KEYS: Final = 50_000


@dataclass(frozen=True, slots=True)
class Limit:
    """`burst` at once, `per_second` in the long run."""

    per_second: float
    burst: float


DEFAULTS: Final[Mapping[str, Limit]] = MappingProxyType(
    {
        "reads": Limit(50, 500),
        "writes": Limit(10, 100),
        "sync": Limit(20, 200),
        "messages": Limit(5, 100),
        "ephemeral": Limit(5, 50),
        "rtc": Limit(5, 200),
        "sfu_webhooks": Limit(100, 2000),
        "delayed_event": Limit(1, 20),
        "delayed_event_updates": Limit(50, 500),
        "joins": Limit(0.5, 15),
        "invites": Limit(0.5, 30),
        "rooms": Limit(0.1, 15),
        "profile": Limit(0.2, 20),
        "searches": Limit(2, 20),
        "reports": Limit(0.05, 10),
        "uploads": Limit(2, 50),
        "downloads": Limit(50, 1000),
        "thumbnails": Limit(50, 1000),
        "registration": Limit(0.05, 5),
        "registration_checks": Limit(1, 10),
        "login_address": Limit(0.1, 10),
        "login_account": Limit(0.1, 10),
        "login_failed": Limit(0.05, 5),
        "refresh": Limit(1, 20),
        "password": Limit(0.1, 10),
        "discovery": Limit(20, 200),
        "server_reads": Limit(50, 500),
        "server_writes": Limit(50, 500),
        "server_transactions": Limit(20, 200),
        "server_joins": Limit(1, 30),
        "server_invites": Limit(2, 60),
        "server_history": Limit(10, 100),
        "server_media": Limit(20, 400),
        "server_address": Limit(200, 2000),
        "server_unproven": Limit(0.5, 60),
        "key_fetches": Limit(0.5, 60),
        "key_queries": Limit(5, 50),
    }
)
"""Class → limit, per key. `login_failed` is by account, `registration` and `login_address` by address, `delayed_event`
by delay id: `delayed_event_updates` are all of an address, behind which a call service may look after many. `rtc` is by
address, too, behind which a whole office may enter one call. `messages` lets a call begin at once: clients may send
each of dozens of candidates as an event of its own, and in encrypted rooms nothing tells those from other messages.

Those named `server_…` are by the server that signed the request, but for what comes before that is known: by address,
`server_address` counts signed requests, `server_unproven` those whose signature did not hold, `key_fetches` those whose
key had to be fetched, `key_queries` what is asked of us as a notary.
"""


SHARED: Final = frozenset(("registration", "login_address", "login_account", "login_failed", "password"))
"""Classes that all processes count together: see `limit_news`."""


class Buckets:
    """The buckets of one class."""

    __slots__ = ("_buckets", "_limit", "_most", "shared")

    def __init__(self, limit: Limit, most: int = MOST_KEYS, *, shared: bool = False) -> None:
        self.shared = shared
        self._limit = limit
        self._most = most
        # Key → (tokens, when they were counted); the one used longest ago first.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, key: str, now: float, cost: float = 1.0) -> float:
        """Seconds until `cost` tokens are there; 0 if they are."""
        missing = cost - self._tokens(key, now)
        return missing / self._limit.per_second if missing > 1e-9 else 0.0

    def take(self, key: str, now: float, cost: float = 1.0) -> None:
        """Take tokens, below nothing if need be, but never into a debt of more than a full bucket."""
        tokens = max(self._tokens(key, now) - cost, -self._limit.burst)
        self._buckets[key] = (tokens, now)
        self._buckets.move_to_end(key)
        self._forget(now)

    def _tokens(self, key: str, now: float) -> float:
        bucket = self._buckets.get(key)
        if bucket is None:
            return self._limit.burst
        tokens, then = bucket
        return min(self._limit.burst, tokens + max(0.0, now - then) * self._limit.per_second)

    def _forget(self, now: float) -> None:
        """Up to two of the oldest go if they are full again; the oldest goes if there are too many."""
        for _ in range(2):
            key = next(iter(self._buckets), None)
            if key is None:
                return
            if len(self._buckets) > self._most or self._tokens(key, now) >= self._limit.burst:
                del self._buckets[key]


class RateLimits:
    """Every class. `clock` gives seconds that never go back."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        enabled: bool = True,
        limits: Mapping[str, Limit] = DEFAULTS,
        taken: Callable[[str, str, float], object] | None = None,
    ) -> None:
        """`taken(name, key, tokens)` is called for what is taken of the classes in `SHARED`."""
        self._taken = taken
        self._clock = clock
        self._enabled = enabled
        self._classes = {
            name: Buckets(limit, shared=taken is not None and name in SHARED)
            for name, limit in limits.items()
        }

    def check(self, name: str, key: str, cost: float = 1.0) -> None:
        """Take a token. Raises LimitExceeded, taking none, with the exact wait."""
        buckets = self._classes[name]
        if not self._enabled:
            return
        now = self._clock()
        wait = buckets.wait(key, now, cost)
        if wait > 0:
            raise LimitExceeded(ceil(wait * 1000))
        buckets.take(key, now, cost)
        if buckets.shared and self._taken is not None:
            self._taken(name, key, cost)

    def peek(self, name: str, key: str) -> None:
        """Raises LimitExceeded where `check` would, and takes nothing."""
        wait = self._classes[name].wait(key, self._clock()) if self._enabled else 0.0
        if wait > 0:
            raise LimitExceeded(ceil(wait * 1000))

    def take(self, name: str, key: str, cost: float = 1.0) -> None:
        """Charge for what has happened, also beyond what is there."""
        if self._enabled:
            buckets = self._classes[name]
            buckets.take(key, self._clock(), cost)
            if buckets.shared and self._taken is not None:
                self._taken(name, key, cost)

    def take_elsewhere(self, name: str, key: str, cost: float) -> None:
        """Another process took so much."""
        if self._enabled:
            self._classes[name].take(key, self._clock(), cost)

    def __contains__(self, name: str) -> bool:
        return name in self._classes
