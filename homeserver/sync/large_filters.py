# SPDX-License-Identifier: Apache-2.0
"""Filters too large to be remembered, for as long as something uses them: a wait does, for as long as it lasts.

Owns sharing them among a user's waits, and how much they may weigh: short words in a list take twenty or thirty times
their length, so that a few hundred waits, each with a filter of its own, would be hundreds of megabytes. The bounds are
small and the same for every server, hence no share of `memory_budget`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import ref

from homeserver.errors import LimitExceeded
from homeserver.protocol.filters import SyncFilter

MOST: Final = 32 * 2**20
"""Bytes they weigh together,"""
MOST_OF_ONE: Final = MOST // 4
"""and those of one user."""
_WEIGHT: Final = 25
"""Bytes of memory for one of text, where words are as short and as many as can be."""
_RETRY_MS: Final = 10_000


class LargeFilters:
    """One per process. Owns no filter: what nobody uses is gone."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, str], ref[SyncFilter]] = {}
        self._weights: Counter[str] = Counter()
        """Of each user's."""
        self._weight = 0

    @property
    def weight(self) -> int:
        """About how many bytes those in use take."""
        return self._weight

    def find(self, user_id: str, text: str) -> SyncFilter | None:
        """A user's filter that is in use, by its id or its JSON, whichever it is asked for by."""
        used = self._used.get((user_id, text))
        return None if used is None else used()

    def share(self, user_id: str, text: str, source: str, parse: Callable[[str], SyncFilter]) -> SyncFilter:
        """The filter made of `source`, or the one in use. Raises LimitExceeded if too much is, and as `parse`."""
        known = self.find(user_id, text)
        if known is not None:  # who asked at the same time was first
            return known
        weight = _WEIGHT * len(source.encode())
        if self._weight + weight > MOST or self._weights[user_id] + weight > MOST_OF_ONE:
            raise LimitExceeded(_RETRY_MS, "Too many large filters are in use")
        found = parse(source)
        self._used[user_id, text] = ref(found, partial(self._gone, (user_id, text), weight))
        self._weights[user_id] += weight
        self._weight += weight
        return found

    def _gone(self, key: tuple[str, str], weight: int, _gone: ref[Any]) -> None:
        del self._used[key]
        user_id, _ = key
        self._weight -= weight
        self._weights[user_id] -= weight
        if not self._weights[user_id]:
            del self._weights[user_id]
