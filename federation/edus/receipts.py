# SPDX-License-Identifier: Apache-2.0
"""`m.receipt` of other servers (server-server API, "Receipts"): public read receipts, threaded ones too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from homeserver.needs import Protocol
from homeserver.protocol.identifiers import (
    domain_of,
    is_valid_event_id,
    is_valid_room_id,
    is_valid_user_id,
)
from homeserver.receipts import RemoteReceipt
from homeserver.rooms.engine import Room

MOST_ROOMS = 50
MOST_RECEIPTS = 500
"""Of one unit; what is beyond is left out."""
READ = "m.read"


class Rooms(Protocol):
    """Rooms by id (`homeserver.rooms.engine.RoomCache`)."""

    async def get_many(self, *, room_ids: Sequence[str]) -> dict[str, Room]: ...


class Receipts(Protocol):
    """What is needed of `homeserver.receipts.RemoteReceipts`."""

    async def receive(self, told: Sequence[RemoteReceipt]) -> None: ...


class _Told(NamedTuple):
    user_id: str
    event_id: str
    thread: str | None
    ts: int


class ReceiptEdus:
    """Takes receipts of users who are the origin's, in rooms whose access control lists let the origin in."""

    def __init__(self, *, server_name: str, rooms: Rooms, receipts: Receipts) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._receipts = receipts

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """One unit."""
        told: dict[str, list[_Told]] = {}
        left = MOST_RECEIPTS
        for room_id, kinds in list(content.items())[:MOST_ROOMS]:
            if not is_valid_room_id(room_id) or "\0" in room_id or not isinstance(kinds, dict):
                continue
            for receipt in _of_room(origin, kinds):
                if not left:
                    break
                left -= 1
                told.setdefault(room_id, []).append(receipt)
        if not told:
            return
        rooms = await self._rooms.get_many(room_ids=list(told))
        taken = []
        for room_id, receipts in told.items():
            room = rooms.get(room_id)
            if room is None or not room.head.is_resident(self._server_name):
                continue
            if room.head.server_acl.allows(origin):
                taken += [RemoteReceipt(room, *each) for each in receipts]
        await self._receipts.receive(taken)


def _of_room(origin: str, kinds: Mapping[str, Any]) -> Iterator[_Told]:
    """The receipts of a room that are well formed and the origin's to tell."""
    by_user = kinds.get(READ)
    for user_id, receipt in by_user.items() if isinstance(by_user, dict) else ():
        if not is_valid_user_id(user_id) or domain_of(user_id) != origin or not isinstance(receipt, dict):
            continue
        event_ids, data = receipt.get("event_ids"), receipt.get("data")
        event_id = event_ids[0] if isinstance(event_ids, list) and len(event_ids) == 1 else None
        if not isinstance(event_id, str) or not is_valid_event_id(event_id) or "\0" in event_id:
            continue
        data = data if isinstance(data, dict) else {}
        ts, thread = data.get("ts"), data.get("thread_id")
        if thread is not None and not isinstance(thread, str):
            continue
        yield _Told(user_id, event_id, thread, ts if type(ts) is int else 0)
