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
from sys import getsizeof
from typing import Any, Final
from weakref import ref

from msgspec import Struct

from homeserver.errors import LimitExceeded
from homeserver.protocol.filters import SyncFilter, TypePatterns

MOST: Final = 32 * 2**20
"""Bytes they weigh together,"""
MOST_BEFORE_LAST: Final = MOST // 2
"""so many of them for whom needs more than a little: the rest is for those who would otherwise come too late."""
MOST_OF_ONE: Final = MOST // 16
"""Those of one user. The largest that can be uploaded takes about as much; a single one may take more."""
LITTLE: Final = MOST // 256
"""What everybody may have as long as there is any room: lists of a thousand rooms."""
_BESIDE: Final = 500
"""Bytes of what is noted about one in use."""
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
        found = parse(source)
        # By what it has become, as that of two texts of one length differs by the factor of ten and more.
        weight = _bytes_of(found) + getsizeof(text) + _BESIDE
        if not self._has_room(user_id, weight):
            raise LimitExceeded(_RETRY_MS, "Too many large filters are in use")
        self._used[user_id, text] = ref(found, partial(self._gone, (user_id, text), weight))
        self._weights[user_id] += weight
        self._weight += weight
        return found

    def _has_room(self, user_id: str, weight: int) -> bool:
        held = self._weights[user_id]
        if held + weight <= LITTLE:
            return self._weight + weight <= MOST
        return self._weight + weight <= MOST_BEFORE_LAST and (not held or held + weight <= MOST_OF_ONE)

    def _gone(self, key: tuple[str, str], weight: int, _gone: ref[Any]) -> None:
        del self._used[key]
        user_id, _ = key
        self._weight -= weight
        self._weights[user_id] -= weight
        if not self._weights[user_id]:
            del self._weights[user_id]


def _bytes_of(value: object) -> int:
    """Of a part of a filter and of all that it is made of. What is shared with others is counted as if it were not."""
    size = getsizeof(value)
    if isinstance(value, frozenset | set | list | tuple):
        # Most have thousands of strings and nothing else.
        return size + sum(getsizeof(each) if type(each) is str else _bytes_of(each) for each in value)
    names: tuple[str, ...] = ()
    if isinstance(value, Struct):
        names = value.__struct_fields__
    elif isinstance(value, TypePatterns):
        names = TypePatterns.__slots__
    return size + sum(_bytes_of(getattr(value, name)) for name in names)
