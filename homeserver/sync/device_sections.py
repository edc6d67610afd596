# SPDX-License-Identifier: Apache-2.0
"""The sections of a response that are a device's own: messages to it, lists of devices, counts of its keys.

Owns their JSON. Each answers "nothing" from memory; see `homeserver/devices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from homeserver.devices.counts import KeyCounts
from homeserver.devices.lists import DeviceLists
from homeserver.devices.messages import ToDevice
from homeserver.protocol.tokens import SyncToken
from homeserver.sync.providers import ExtensionNews
from storage.one_time_keys import KeyCounts as Counts

_NOTHING: Final = ExtensionNews({}, False)


class ToDeviceSection:
    """`to_device`. A page of messages at a time: the token says where the next one begins."""

    stands: Final = False

    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    async def changed(
        self, user_id: str, device_id: str | None, since: SyncToken | None, upto: int
    ) -> ExtensionNews:
        if device_id is None:
            return _NOTHING
        told = 0 if since is None else since.to_device_told
        waiting = await self._to_device.waiting(user_id, device_id, told, upto)
        if not waiting.messages:
            return _NOTHING
        body = '{"events":[' + ",".join(waiting.messages) + "]}"
        return ExtensionNews({"to_device": body.encode()}, True, waiting.told)

    def at_once(
        self, user_id: str, device_id: str | None, since: SyncToken, upto: int, rooms: Sequence[int]
    ) -> ExtensionNews | None:
        told = since.to_device_told
        return _NOTHING if device_id is None or self._to_device.none_since(user_id, told, upto) else None

    def is_acknowledged(self, user_id: str, device_id: str | None, since: SyncToken) -> bool:
        return device_id is None or self._to_device.is_acknowledged(user_id, device_id, since.to_device_told)

    async def acknowledge(self, user_id: str, device_id: str | None, since: SyncToken) -> None:
        if device_id is not None:
            await self._to_device.acknowledge(user_id, device_id, since.to_device_told)


class DeviceListsSection:
    """`device_lists`. A first sync says nothing: its client asks for whatever it wants to track."""

    stands: Final = False

    def __init__(self, lists: DeviceLists) -> None:
        self._lists = lists

    async def changed(
        self, user_id: str, device_id: str | None, since: SyncToken | None, upto: int
    ) -> ExtensionNews:
        if since is None:
            return _NOTHING
        news = await self._lists.changed(user_id, since.position, upto)
        if not news.changed and not news.left:
            return _NOTHING
        body = orjson.dumps({"changed": sorted(news.changed), "left": sorted(news.left)})
        return ExtensionNews({"device_lists": body}, True)

    def at_once(
        self, user_id: str, device_id: str | None, since: SyncToken, upto: int, rooms: Sequence[int]
    ) -> ExtensionNews | None:
        return _NOTHING if self._lists.none_since(since.position, rooms) else None

    def is_acknowledged(self, user_id: str, device_id: str | None, since: SyncToken) -> bool:
        return True

    async def acknowledge(self, user_id: str, device_id: str | None, since: SyncToken) -> None:
        return None


class KeyCountsSection:
    """`device_one_time_keys_count` and `device_unused_fallback_key_types`, in every response.

    A device that has keys is told the count of signed keys even if it is none: that is when it must upload some.
    """

    stands: Final = True

    def __init__(self, counts: KeyCounts) -> None:
        self._counts = counts

    async def changed(
        self, user_id: str, device_id: str | None, since: SyncToken | None, upto: int
    ) -> ExtensionNews:
        if device_id is None:
            return _NOTHING
        return self._told(user_id, device_id, since, upto, await self._counts.of(user_id, device_id))

    def at_once(
        self, user_id: str, device_id: str | None, since: SyncToken, upto: int, rooms: Sequence[int]
    ) -> ExtensionNews | None:
        if device_id is None:
            return _NOTHING
        counts = self._counts.known(user_id, device_id)
        return None if counts is None else self._told(user_id, device_id, since, upto, counts)

    def _told(
        self, user_id: str, device_id: str, since: SyncToken | None, upto: int, counts: Counts
    ) -> ExtensionNews:
        if not counts.has_keys:
            return _NOTHING
        moved = (
            since is not None
            and since.position < upto
            and self._counts.may_have_moved(user_id, device_id, since.position)
        )
        one_time = {"signed_curve25519": 0, **counts.one_time}
        return ExtensionNews(
            {
                "device_one_time_keys_count": orjson.dumps(one_time),
                "device_unused_fallback_key_types": orjson.dumps(counts.unused_fallback),
            },
            moved,
        )

    def is_acknowledged(self, user_id: str, device_id: str | None, since: SyncToken) -> bool:
        return True

    async def acknowledge(self, user_id: str, device_id: str | None, since: SyncToken) -> None:
        return None
