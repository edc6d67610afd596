# SPDX-License-Identifier: Apache-2.0
"""Brakes on what one user, address or account may ask for: token buckets by class and key.

Owns the classes, their rates, and the arithmetic. A bucket holds `burst` tokens and gains `per_second`; a request takes
one; an empty bucket refuses with the exact time until the next. One process remembers buckets by itself; the processes
of one machine have a memory together (`bucket_table`), so that a limit is the same however many they are; what guards
passwords and accounts is counted together with other machines, too (`limit_news`). Either memory is bounded.

Routes are counted under their `limit` by user or address. What a route cannot know (the account a log-in names, a
failed password) its handler checks: `limits.check("login_account", user_id)` takes a token, `limits.peek` only asks,
`limits.take` charges for what has happened.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import ceil
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from homeserver.errors import LimitExceeded
from homeserver.needs import Protocol

MOST_KEYS: Final = 50_000
_NOTHING: Final = 1e-9


class Limit(Struct, frozen=True):
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
"""Classes that the processes of all machines count together: see `limit_news`."""


class Memory(Protocol):
    """When which bucket is full again: all that there is to know of one."""

    def full_at(self, key: str) -> float:
        """A time that is past if nothing is known of it."""

    def keep(self, key: str, full_at: float, now: float) -> None:
        """To be called after `full_at` was asked of the same key."""


class OwnMemory:
    """Of one process. Full buckets are forgotten, and beyond `most` the one used longest ago."""

    __slots__ = ("_buckets", "_most")

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._buckets: OrderedDict[str, float] = OrderedDict()
        """The one used longest ago first."""

    def __len__(self) -> int:
        return len(self._buckets)

    def full_at(self, key: str) -> float:
        """See `Memory`."""
        return self._buckets.get(key, 0.0)

    def keep(self, key: str, full_at: float, now: float) -> None:
        """See `Memory`. Up to two of the oldest go if they are full again; the oldest goes if there are too many."""
        buckets = self._buckets
        buckets[key] = full_at
        buckets.move_to_end(key)
        for _ in range(2):
            oldest = next(iter(buckets))
            if len(buckets) > self._most or buckets[oldest] <= now:
                del buckets[oldest]
                if not buckets:
                    return


class Buckets:
    """The buckets of one class."""

    __slots__ = ("_full", "_memory", "_per_second", "shared")

    def __init__(self, limit: Limit, memory: Memory | None = None, *, shared: bool = False) -> None:
        """Without `memory` they are remembered here."""
        self.shared = shared
        self._per_second = limit.per_second
        self._full = limit.burst / limit.per_second
        """Seconds in which an empty bucket becomes full."""
        self._memory: Memory = OwnMemory() if memory is None else memory

    def wait(self, key: str, now: float, cost: float = 1.0) -> float:
        """Seconds until `cost` tokens are there; 0 if they are."""
        missing = self._empty(key, now) + cost / self._per_second - self._full
        return missing if missing > _NOTHING else 0.0

    def ask(self, key: str, now: float, cost: float = 1.0) -> float:
        """Take tokens if they are there; else the seconds until they are, which is when they may be taken."""
        empty = self._empty(key, now) + cost / self._per_second
        missing = empty - self._full
        if missing > _NOTHING:
            return missing
        self._memory.keep(key, now + empty, now)
        return 0.0

    def take(self, key: str, now: float, cost: float = 1.0) -> None:
        """Take tokens, below nothing if need be, but never into a debt of more than a full bucket."""
        empty = min(self._empty(key, now) + cost / self._per_second, 2 * self._full)
        self._memory.keep(key, now + empty, now)

    def _empty(self, key: str, now: float) -> float:
        """Seconds until the bucket is full."""
        return min(max(0.0, self._memory.full_at(key) - now), 2 * self._full)


class RateLimits:
    """Every class. `clock` gives seconds that never go back."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        enabled: bool = True,
        limits: Mapping[str, Limit] = DEFAULTS,
        taken: Callable[[str, str, float], object] | None = None,
        memory: Callable[[str], Memory] | None = None,
    ) -> None:
        """`taken(name, key, tokens)` is called for what is taken of the classes in `SHARED`; `memory(name)` is where
        the other classes are counted, if not here.
        """
        self._taken = taken
        self._clock = clock
        self._enabled = enabled
        self._classes = {
            name: Buckets(
                limit,
                None if memory is None or name in SHARED else memory(name),
                shared=taken is not None and name in SHARED,
            )
            for name, limit in limits.items()
        }

    def check(self, name: str, key: str, cost: float = 1.0) -> None:
        """Take a token. Raises LimitExceeded, taking none, with the exact wait."""
        buckets = self._classes[name]
        if not self._enabled:
            return
        wait = buckets.ask(key, self._clock(), cost)
        if wait > 0:
            raise LimitExceeded(ceil(wait * 1000))
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
