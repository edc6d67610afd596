# SPDX-License-Identifier: Apache-2.0
"""Filters uploaded by clients, kept under an id. Client-server API, "Filtering".

Owns the id and the size. What is well-formed and what a filter lets through is `homeserver/protocol/filters.py`'s. Keys
that does not know are kept, as clients of newer versions send them.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.accounts.credentials import Clock
from homeserver.errors import NotFound, TooLarge
from homeserver.protocol.filters import SyncFilter
from storage.filters import FilterStore

_MOST_BYTES: Final = 65_536
_ID_BYTES: Final = 16


class Filters:
    """Keeps users' filters."""

    def __init__(self, filters: FilterStore, clock: Clock) -> None:
        self._filters = filters
        self._clock = clock

    async def put(self, user_id: str, definition: Mapping[str, Any]) -> str:
        """Keep a filter; the same content always has the same id. Raises FilterError, TooLarge."""
        SyncFilter.parse(definition)
        text = orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)
        if len(text) > _MOST_BYTES:
            raise TooLarge("The filter is too large")
        digest = hashlib.sha256(text).digest()[:_ID_BYTES]
        filter_id = urlsafe_b64encode(digest).decode().rstrip("=")
        await self._filters.put(user_id, filter_id, text.decode(), self._clock())
        return filter_id

    async def get(self, user_id: str, filter_id: str) -> str:
        """A filter's JSON text. Raises NotFound."""
        text = await self._filters.get(user_id, filter_id)
        if text is None:
            raise NotFound("No such filter")
        return text
