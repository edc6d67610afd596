# SPDX-License-Identifier: Apache-2.0
"""The filter a client names with each request, by id or as JSON: found and read once, then remembered.

A filter's id is made of its content, so what is remembered of it never grows old. A large one is not remembered, but
shared by those who use it (`large_filters`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable

import orjson

from homeserver.errors import InvalidParam, NotFound, NotJson
from homeserver.needs import Protocol
from homeserver.protocol.filters import NO_FILTER, SyncFilter
from homeserver.sync.large_filters import LargeFilters

BUDGET = 8_000_000
"""Bytes of filters that are remembered, unless told otherwise."""
_LONGEST_REMEMBERED = 8_192


class KeptFilters(Protocol):
    """Filters that were uploaded."""

    def get(self, user_id: str, filter_id: str) -> Awaitable[str]:
        """A filter's JSON. Raises NotFound."""
        ...


class WantedFilters:
    """One per process."""

    def __init__(self, kept: KeptFilters, *, budget: int = BUDGET) -> None:
        self._kept = kept
        self._budget = budget
        self._weight = 0
        self._read: OrderedDict[tuple[str, str], tuple[SyncFilter, int]] = OrderedDict()
        """With what each weighs."""
        self._large = LargeFilters()

    @property
    def weight(self) -> int:
        """About how many bytes it remembers."""
        return self._weight

    async def find(self, user_id: str, text: str | None) -> SyncFilter:
        """The filter of a `filter` parameter.

        Raises InvalidParam for an unknown id, NotJson, FilterError, LimitExceeded for one of too many large ones.
        """
        if not text:
            return NO_FILTER
        inline = text.startswith("{")
        key = ("" if inline else user_id, text)
        known = self._read.get(key)
        if known is not None:
            self._read.move_to_end(key)
            return known[0]
        found = self._large.find(user_id, text)
        if found is not None:
            return found
        source = text if inline else await self._uploaded(user_id, text)
        if len(source) > _LONGEST_REMEMBERED:
            return self._large.share(user_id, text, source, _parsed)
        found = _parsed(source)
        self._remember(key, found, _weight_of(source))
        return found

    def _remember(self, key: tuple[str, str], found: SyncFilter, weight: int) -> None:
        _, before = self._read.pop(key, (None, 0))  # who asked at the same time may have been first
        self._read[key] = found, weight
        self._weight += weight - before
        while self._weight > self._budget:
            _, (_, oldest) = self._read.popitem(last=False)
            self._weight -= oldest

    async def _uploaded(self, user_id: str, filter_id: str) -> str:
        try:
            return await self._kept.get(user_id, filter_id)
        except NotFound as error:
            raise InvalidParam("No such filter") from error


def _weight_of(source: str) -> int:
    """About how many bytes the filter takes: lists of short words are many objects."""
    return 3000 + 15 * len(source)


def _parsed(text: str) -> SyncFilter:
    try:
        source = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotJson("The filter is not JSON") from error
    return SyncFilter.parse(source)
