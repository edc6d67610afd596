# SPDX-License-Identifier: Apache-2.0
"""`m.device_list_update` of other servers (server-server API, "Device Management")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from federation.devices import checking
from federation.devices.lists import LARGEST, DeviceUpdate
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of, is_valid_user_id

MOST_PREVIOUS: Final = 100


class Lists(Protocol):
    """`federation.devices.lists.RemoteLists`."""

    async def update(self, update: DeviceUpdate) -> None: ...


class DeviceListEdus:
    """Takes changes of devices of users who are the origin's."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """One unit."""
        user_id, stream_id = content.get("user_id"), content.get("stream_id")
        if not (isinstance(user_id, str) and is_valid_user_id(user_id) and domain_of(user_id) == origin):
            return
        device = checking.remote_device(content, user_id)
        previous = content.get("prev_id") or []
        if device is None or "\0" in user_id or type(stream_id) is not int or type(previous) is not list:
            return
        if not all(type(each) is int for each in previous) or not -LARGEST <= stream_id <= LARGEST:
            return
        await self._lists.update(
            DeviceUpdate(
                user_id=user_id,
                device=device,
                deleted=content.get("deleted") is True,
                stream_id=stream_id,
                previous=previous[:MOST_PREVIOUS],
            )
        )
