# SPDX-License-Identifier: Apache-2.0
"""Which member events a device has been sent, so that lazy loading need not send them again.

Client-server API, "Lazy-loading room members". A record belongs to the token of the response that completed it: a
client that goes on from that token has seen it all; one that goes back, arrives at another process, or shares its
device with another connection finds no record, and is sent members anew, which is allowed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from immutables import Map
from msgspec import Struct

from homeserver.protocol.tokens import SyncToken

TOKENS_PER_DEVICE = 3
"""The newest response, and those before it in case it is lost on the way."""
MOST_PER_DEVICE = 20_000
MOST_IN_ALL = 1_000_000
"""Members remembered, unless told otherwise; at some hundred bytes each."""
DEVICE = 4
"""A device takes as much as so many members."""


class Sent(Struct, frozen=True):
    """By room and user, the ordinal of the member event that was sent last. A value."""

    members: Map[tuple[int, str], int]

    def has(self, room: int, user_id: str, ordinal: int) -> bool:
        return self.members.get((room, user_id)) == ordinal

    def plus(self, additions: Iterable[tuple[int, str, int]]) -> Sent:
        """With (room, user, ordinal) added."""
        mutation = self.members.mutate()
        for room, user_id, ordinal in additions:
            mutation[room, user_id] = ordinal
        return Sent(mutation.finish())


NOTHING_SENT = Sent(Map())

_Device = tuple[str, str | None]


class SentMembers:
    """One per process; the devices least recently heard of are forgotten first."""

    def __init__(self, *, most: int = MOST_IN_ALL) -> None:
        self._most = most
        self._devices: OrderedDict[_Device, OrderedDict[SyncToken, Sent]] = OrderedDict()
        self._size = 0

    @property
    def size(self) -> int:
        """Members that are remembered, and the devices that count like some."""
        return self._size

    def recall(self, user_id: str, device_id: str | None, since: SyncToken | None) -> Sent:
        """What the device has, if it goes on from a response that is remembered."""
        known = self._devices.get((user_id, device_id))
        if known is None or since is None:
            return NOTHING_SENT
        return known.get(since, NOTHING_SENT)

    def remember(
        self, user_id: str, device_id: str | None, since: SyncToken | None, next_batch: SyncToken, sent: Sent
    ) -> None:
        """The device, last heard of at `since`, will have this once it comes back with the token."""
        if len(sent.members) > MOST_PER_DEVICE:
            sent = NOTHING_SENT
        device = (user_id, device_id)
        known = self._devices.get(device)
        if known is None:
            if not sent.members:
                return
            known = self._devices[device] = OrderedDict()
        else:
            self._size -= _size(known)
            if (
                since is not None and since in known
            ):  # a response that is never sent must not push out what the client has
                known.move_to_end(since)
            other = known.get(next_batch)
            if other is not None and other is not sent and other.members != sent.members:
                sent = NOTHING_SENT  # two connections of one device met at a token: trust neither
            known.pop(next_batch, None)
        known[next_batch] = sent
        while len(known) > TOKENS_PER_DEVICE:
            known.popitem(last=False)
        self._size += _size(known)
        self._devices.move_to_end(device)
        while self._size > self._most and self._devices:
            _, forgotten = self._devices.popitem(last=False)
            self._size -= _size(forgotten)


def _size(known: OrderedDict[SyncToken, Sent]) -> int:
    """Older records share nearly everything with the newest."""
    return DEVICE + len(known[next(reversed(known))].members) if known else 0
