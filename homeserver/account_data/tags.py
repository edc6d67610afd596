# SPDX-License-Identifier: Apache-2.0
"""Room tags (client-server API, "Room Tagging"): entries within the room account data `m.tag`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.account_data.service import AccountData
from homeserver.errors import BadJson, InvalidParam

TAG = "m.tag"
MAX_NAME_BYTES = 255


class Tags:
    """A user's tags, room by room."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    async def of(self, user_id: str, room_id: str) -> dict[str, Any]:
        """The tags on a room, by name."""
        return _tags(await self._account_data.find(user_id, room_id, TAG))

    async def put(self, user_id: str, room_id: str, tag: str, content: Mapping[str, Any]) -> None:
        """Put a tag on a room. Raises BadJson, InvalidParam, NotFound for the room."""
        if len(tag.encode()) > MAX_NAME_BYTES:
            raise InvalidParam(f"A tag's name is at most {MAX_NAME_BYTES} bytes")
        _check_order(content.get("order"))
        await self._account_data.update(
            user_id,
            room_id,
            TAG,
            lambda present: {**(present or {}), "tags": {**_tags(present), tag: content}},
        )

    async def remove(self, user_id: str, room_id: str, tag: str) -> None:
        """Take a tag off a room; nothing happens if it is not there. Raises NotFound for the room."""

        def without(present: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
            tags = _tags(present)
            if tag not in tags:
                return present
            del tags[tag]
            return {**(present or {}), "tags": tags}

        await self._account_data.update(user_id, room_id, TAG, without)


def _tags(content: Mapping[str, Any] | None) -> dict[str, Any]:
    tags = content.get("tags") if content is not None else None
    return dict(tags) if isinstance(tags, dict) else {}


def _check_order(order: object) -> None:
    if order is None:
        return
    if isinstance(order, bool) or not isinstance(order, int | float) or not 0 <= order <= 1:
        raise BadJson("order must be a number between 0 and 1")
