# SPDX-License-Identifier: Apache-2.0
"""The lists of devices of other servers' users, kept as long as they share a room with ours.

Server-server API, "Device Management". A list that was read whole is kept right by updates; one that misses an
update, or whose user went out of sight, is stale: not believed until it was read again, by one request at a time per
user. Owns that reading, its retries, and how an update is taken in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, Final

import orjson
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from federation.client.answers import DeviceListAnswer
from federation.client.errors import BadAnswer, RemoteFailure
from federation.devices import checking
from homeserver.needs import Protocol
from homeserver.protocol.device_keys import checked_cross_signing_key
from storage.cross_signing import CrossSigningStore, StoredCrossSigningKey
from storage.database import Database, Transaction
from storage.device_lists import RemoteDevice, RemoteDeviceListStore

READS_IN_A_ROW: Final = 3
"""Of a list that changes while it is being read; then it waits for the next round."""
AT_ONCE: Final = 10
"""Lists that are being read."""
MOST_WAITING: Final = 20_000
"""Lists to be read soon; what is beyond is found again by the rounds."""
ROUND_SECONDS: Final = 60.0
ROUND_SIZE: Final = 100
LARGEST: Final = 2**63 - 1
PAUSE_MS: Final = 60_000
"""After the first failure; doubles with each."""


class Calls(Protocol):
    """`federation.client.calls.FederationCalls`."""

    async def user_devices(self, destination: str, user_id: str) -> DeviceListAnswer: ...


class UserRooms(Protocol):
    """The rooms of a user, by key; `rooms.user_rooms.UserRooms` is one."""

    async def of(self, user_id: str) -> Mapping[int, Any]: ...


class Changes(Protocol):
    """Tells our users of changes; `homeserver.devices.lists.DeviceLists`."""

    async def settle(self, users: Sequence[str]) -> None: ...


class DeviceUpdate(Struct, frozen=True, kw_only=True):
    """A device changed, says its user's own server (`m.device_list_update`)."""

    user_id: str
    device: RemoteDevice
    deleted: bool
    stream_id: int
    previous: Collection[int]
    """Changes that must have been taken in before; none: it stands by itself, and says nothing of what went before."""


class _Outcome(Enum):
    TAKEN = auto()
    KNOWN = auto()
    """Says nothing new."""
    MISSED = auto()
    """The list is to be read."""


class _Reading(Enum):
    TAKEN = auto()
    CHANGED = auto()
    """Clients are to ask again."""
    OVERTAKEN = auto()
    """Something came meanwhile that it may be without: the list is to be read again."""


class RemoteLists:
    """One per process; any number of processes at a time."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        database: Database,
        store: RemoteDeviceListStore,
        cross_signing: CrossSigningStore,
        calls: Calls,
        user_rooms: UserRooms,
        changes: Changes,
        now: Callable[[], int],
    ) -> None:
        self._database = database
        self._store = store
        self._cross_signing = cross_signing
        self._calls = calls
        self._user_rooms = user_rooms
        self._changes = changes
        self._now = now
        self._waiting: deque[str] = deque()
        self._named: set[str] = set()
        """Those that wait or are being read."""
        self._reading: set[Deferred[None]] = set()
        self._going_on = False
        self._stopping = False
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._round()))
        self._loop.clock = reactor
        self._running: Deferred[LoopingCall] | None = None

    def start(self) -> None:
        """Begin reading what is stale, now and then."""
        self._running = self._loop.start(ROUND_SECONDS)

    async def stop(self) -> None:
        """Begin nothing more; what is being read is given up."""
        self._stopping = True
        self._waiting.clear()
        if self._loop.running:
            self._loop.stop()
        for reading in tuple(self._reading):
            reading.cancel()
        if self._running is not None:
            await self._running

    # For queries.

    async def kept(self, user_ids: Collection[str]) -> set[str]:
        """Those of the users whose lists are kept here and right."""
        return await self._store.believed(list(user_ids))

    async def follow(self, asking: str, user_ids: Collection[str]) -> None:
        """Keep the lists of those of the users who share a room with one of ours from now on."""
        if not user_ids:
            return
        standings = await self._user_rooms.of(asking)
        rooms = [room for room, standing in standings.items() if standing.membership == "join"]
        if rooms:
            self.read_soon(await self._store.sharing_with(rooms, list(user_ids)))

    # For updates.

    async def update(self, update: DeviceUpdate) -> None:
        """A device changed. Users whom nobody here can see are not looked at."""
        user_id = update.user_id
        if not await self._store.in_sight((user_id,)):
            return
        outcome = await self._database.transaction("remote_device_update", partial(self._update_txn, update))
        if outcome is not _Outcome.KNOWN:
            await self._changes.settle((user_id,))
        if outcome is _Outcome.MISSED:
            self.read_soon((user_id,))

    async def _update_txn(self, update: DeviceUpdate, txn: Transaction) -> _Outcome:
        outcome = _Outcome.TAKEN
        tracked = await self._store.lock_txn(txn, update.user_id)
        if tracked is not None and tracked.stale:
            await self._store.moved_txn(txn, update.user_id)
            outcome = _Outcome.MISSED
        elif tracked is not None:
            if tracked.stream_id != update.stream_id:
                outcome = await self._apply_txn(txn, update, tracked.stream_id)
            elif update.stream_id in update.previous:
                return _Outcome.KNOWN
            # Else the list has it, perhaps since it was read: who asked the server before that was told of none of it.
        await self._cross_signing.due_txn(txn, update.user_id, [update.device.device_id])
        return outcome

    async def _apply_txn(self, txn: Transaction, update: DeviceUpdate, known: int | None) -> _Outcome:
        """Take an update in, unless one before it was missed or the list is too long."""
        user_id, device = update.user_id, update.device
        full = await self._store.count_txn(txn, user_id) >= checking.MOST_DEVICES
        if known not in update.previous or (full and not update.deleted):
            await self._store.distrust_txn(txn, user_id)
            return _Outcome.MISSED
        if update.deleted:
            await self._store.drop_device_txn(txn, user_id, device.device_id)
        else:
            await self._store.put_device_txn(txn, user_id, device)
        await self._store.advance_txn(txn, user_id, update.stream_id)
        return _Outcome.TAKEN

    async def update_signing_keys(self, user_id: str, keys: Mapping[str, Mapping[str, Any]]) -> None:
        """Cross-signing keys changed, by usage, says the user's own server; they were checked."""
        if not keys or not await self._store.in_sight((user_id,)):
            return

        async def work(txn: Transaction) -> None:
            if await self._store.lock_txn(txn, user_id) is not None:
                await self._cross_signing.put_txn(txn, user_id, _stored(user_id, keys))
                await self._store.moved_txn(txn, user_id)
            await self._cross_signing.due_txn(txn, user_id, [""])

        await self._database.transaction("remote_signing_keys", work)
        await self._changes.settle((user_id,))

    # Reading whole lists.

    def read_soon(self, user_ids: Collection[str]) -> None:
        """Have lists read, unless they are being read."""
        for user_id in user_ids:
            if user_id not in self._named and len(self._waiting) < MOST_WAITING and not self._stopping:
                self._named.add(user_id)
                self._waiting.append(user_id)
        self._go_on()

    def _go_on(self) -> None:
        if self._going_on:  # one that failed at once; twenty thousand of them would be too deep
            return
        self._going_on = True
        while self._waiting and len(self._reading) < AT_ONCE:
            user_id = self._waiting.popleft()
            reading: Deferred[None] = Deferred.fromCoroutine(self._read(user_id))
            self._reading.add(reading)
            reading.addBoth(self._done, reading, user_id)
        self._going_on = False

    def _done(self, _result: object, reading: Deferred[None], user_id: str) -> None:
        self._reading.discard(reading)
        self._named.discard(user_id)
        self._go_on()

    async def _read(self, user_id: str) -> None:
        try:
            for _ in range(READS_IN_A_ROW):
                epoch = (await self._store.begin(user_id)).epoch
                try:
                    answer = await self._calls.user_devices(user_id.partition(":")[2], user_id)
                    if not -LARGEST <= answer.stream_id <= LARGEST:
                        raise BadAnswer(user_id.partition(":")[2], "a stream id out of range")
                except RemoteFailure:
                    await self._store.failed(user_id, self._now(), PAUSE_MS)
                    return
                if await self._take(user_id, answer, epoch):
                    return
        except Exception:
            if not self._stopping:
                self._log.failure("the devices of {user_id} could not be read", user_id=user_id)

    async def _take(self, user_id: str, answer: DeviceListAnswer, epoch: int) -> bool:
        """Put what was asked for in `epoch`; False if it has to be read again."""
        devices: dict[str, RemoteDevice] = {}
        for value in answer.devices[: checking.MOST_DEVICES]:
            device = checking.remote_device(value, user_id)
            if device is not None:
                devices[device.device_id] = device
        keys = {
            usage: key
            for usage, value in (("master", answer.master_key), ("self_signing", answer.self_signing_key))
            if (key := checking.cross_signing_key(value, user_id, usage)) is not None
        }

        async def work(txn: Transaction) -> _Reading:
            tracked = await self._store.lock_txn(txn, user_id)
            if tracked is None:
                return _Reading.TAKEN
            if tracked.epoch != epoch:
                return _Reading.OVERTAKEN if tracked.stale else _Reading.TAKEN
            if not await self._store.in_sight_txn(txn, user_id):
                return _Reading.TAKEN  # nobody would tell us what comes after it
            await self._store.replace_txn(txn, user_id, list(devices.values()), answer.stream_id)
            await self._cross_signing.remove_others_txn(txn, user_id, [])
            if keys:
                await self._cross_signing.put_txn(txn, user_id, _stored(user_id, keys))
            if tracked.stream_id is None:
                return _Reading.TAKEN
            # Clients may have been told of changes when the server could not be asked: now it is worth asking again.
            await self._cross_signing.due_txn(txn, user_id, [""])
            return _Reading.CHANGED

        outcome = await self._database.transaction("remote_device_list", work)
        if outcome is _Reading.CHANGED:
            await self._changes.settle((user_id,))
        return outcome is not _Reading.OVERTAKEN

    async def _round(self) -> None:
        try:
            users = await self._store.take_stale(self._now(), PAUSE_MS * 10, ROUND_SIZE)
            if users:
                seen = await self._store.in_sight(users)
                await self._store.forget([user_id for user_id in users if user_id not in seen])
                self.read_soon(seen)
        except Exception:
            self._log.failure("stale lists of devices could not be looked for; they are in the next round")


def _stored(user_id: str, keys: Mapping[str, Mapping[str, Any]]) -> list[StoredCrossSigningKey]:
    stored = []
    for usage, value in keys.items():
        key = checked_cross_signing_key(value, user_id, usage)
        stored.append(StoredCrossSigningKey(user_id, usage, key.public_key, orjson.dumps(key.value).decode()))
    return stored
