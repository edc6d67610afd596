# SPDX-License-Identifier: Apache-2.0
"""Puts the services of devices together. Owns the order of building them, what they hear, and what runs by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Set
from typing import Any, Final

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from homeserver.devices.backups import KeyBackups
from homeserver.devices.claiming import KeyClaim
from homeserver.devices.counts import CAPACITY, KeyCounts
from homeserver.devices.cross_signing import CrossSigning, Reauthentication
from homeserver.devices.dehydrated import DehydratedDevices
from homeserver.devices.lists import DeviceLists
from homeserver.devices.member_moves import MemberMoves
from homeserver.devices.messages import ToDevice
from homeserver.devices.news import LIST_BYTES, DeviceNews
from homeserver.devices.querying import KeyQuery, StoredKeys
from homeserver.devices.remote import Announcing, RemoteDevices, RemoteKeys
from homeserver.devices.signatures import Signatures
from homeserver.devices.uploading import KeyUpload
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.user_rooms import UserRooms
from homeserver.stream import Committer, Stream
from storage.cross_signing import CrossSigningStore
from storage.database import Database
from storage.dehydrated_devices import DehydratedDeviceStore
from storage.device_keys import DeviceKeyStore
from storage.device_lists import CHANNEL, DUES, DeviceListStore
from storage.key_backups import KeyBackupStore
from storage.one_time_keys import OneTimeKeyStore
from storage.shown_keys import ShownKeyStore
from storage.stream import StreamStore
from storage.to_device import ToDeviceStore

_SWEEP_SECONDS: Final = 3600.0


class Upkeep:
    """Settles what another process left, and forgets what is too old, at the start and every hour."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        lists: DeviceLists,
        to_device: ToDevice,
        my_turn: Callable[[float], Awaitable[bool]] | None,
    ) -> None:
        """`my_turn`: whether this process is to do it for the next so many seconds; always so by default."""
        self._my_turn = my_turn
        self._lists = lists
        self._to_device = to_device
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._tick()))
        self._loop.clock = reactor
        self._running: Deferred[LoopingCall] | None = None

    def start(self) -> None:
        """Begin."""
        self._running = self._loop.start(_SWEEP_SECONDS)

    async def stop(self) -> None:
        """Begin no further round, and wait for one under way."""
        if self._loop.running:
            self._loop.stop()
        if self._running is not None:
            await self._running

    async def _tick(self) -> None:
        try:
            if self._my_turn is not None and not await self._my_turn(0.9 * _SWEEP_SECONDS):
                return
            await self._lists.settle_all()
            await self._to_device.sweep()
        except Exception:
            self._log.failure("upkeep of devices failed; it is tried again")


class DeviceGround(Struct, frozen=True, kw_only=True):
    """What the services stand on, and those that speak to other servers need: lists, and the keys that are here."""

    origin: str
    database: Database
    committer: Committer
    news: DeviceNews
    lists: DeviceLists
    stored_keys: StoredKeys
    is_local: Callable[[str], bool]


class DeviceServices(Struct, frozen=True, kw_only=True):
    """The services, each for whoever needs it."""

    database: Database
    stream_store: StreamStore
    news: DeviceNews
    lists: DeviceLists
    stored_keys: StoredKeys
    counts: KeyCounts
    upload: KeyUpload
    query: KeyQuery
    claim: KeyClaim
    cross_signing: CrossSigning
    signatures: Signatures
    to_device: ToDevice
    backups: KeyBackups
    dehydrated: DehydratedDevices
    upkeep: Upkeep

    async def start(self) -> None:
        """Hear the other processes, and begin the recurring work."""
        await self.database.listen(CHANNEL, self.news.heard)
        self.news.listening_since(await self.stream_store.settled_position())
        await self.database.listen(DUES, self.lists.heard, self.lists.missed)
        self.upkeep.start()

    async def stop(self) -> None:
        """End it; the database is still there."""
        await self.upkeep.stop()


def build_stored_keys(database: Database, server_name: str) -> StoredKeys:
    """The keys that are here, for what is built before the services."""
    return StoredKeys(
        shown=ShownKeyStore(database),
        lists=DeviceListStore(database),
        is_local=local_to(server_name),
    )


def local_to(server_name: str) -> Callable[[str], bool]:
    """Tells whether a user id is one of that server."""
    return lambda user_id: user_id.partition(":")[2] == server_name


def build_device_ground(
    *,
    origin: str,
    server_name: str,
    database: Database,
    stream: Stream,
    committer: Committer,
    cache: RoomCache,
    user_rooms: UserRooms,
    readers: Callable[[Set[int]], Iterable[str]],
    stored_keys: StoredKeys,
    announcing: Announcing,
    list_bytes: int = LIST_BYTES,
) -> DeviceGround:
    """Build it, subscribed to the stream. `readers` gives, of the users who wait, those in one of some rooms;
    `list_bytes` is how much is remembered of changes of lists."""
    news = DeviceNews(
        origin=origin,
        position=stream.position,
        readers=readers,
        listening=lambda: stream.listeners.users,
        list_bytes=list_bytes,
    )
    member_moves = MemberMoves(stream.position, cache)
    stream.subscribe(news)
    stream.subscribe(member_moves)
    is_local = local_to(server_name)
    lists = DeviceLists(
        origin=origin,
        store=DeviceListStore(database),
        news=news,
        member_moves=member_moves,
        user_rooms=user_rooms,
        committer=committer,
        announcing=announcing,
        is_local=is_local,
    )
    return DeviceGround(
        origin=origin,
        database=database,
        committer=committer,
        news=news,
        lists=lists,
        stored_keys=stored_keys,
        is_local=is_local,
    )


def build_device_services(
    ground: DeviceGround,
    *,
    reactor: Any,
    stream: Stream,
    stream_store: StreamStore,
    reauthentication: Reauthentication,
    now: Callable[[], int],
    remote_keys: RemoteKeys,
    remote_devices: RemoteDevices,
    my_turn: Callable[[float], Awaitable[bool]] | None = None,
    remembered: int = CAPACITY,
) -> DeviceServices:
    """Build them; nothing runs before `start`. `my_turn`: see `Upkeep`. `remembered`: how many devices' key counts, and
    as many devices of which it is known what messages they have."""
    origin, database, committer = ground.origin, ground.database, ground.committer
    news, lists, is_local = ground.news, ground.lists, ground.is_local
    device_keys, cross_signing = DeviceKeyStore(database), CrossSigningStore(database)
    one_time_keys = OneTimeKeyStore(database)
    counts = KeyCounts(
        origin=origin,
        store=one_time_keys,
        news=news,
        committer=committer,
        position=lambda: stream.position,
        capacity=remembered,
    )
    to_device = ToDevice(
        origin=origin,
        store=ToDeviceStore(database),
        news=news,
        committer=committer,
        remote=remote_devices,
        is_local=is_local,
        now=now,
        capacity=remembered,
    )
    upload = KeyUpload(
        database=database,
        device_keys=device_keys,
        one_time_keys=one_time_keys,
        cross_signing=cross_signing,
        lists=lists,
        counts=counts,
    )
    return DeviceServices(
        database=database,
        stream_store=stream_store,
        news=news,
        lists=lists,
        stored_keys=ground.stored_keys,
        counts=counts,
        upload=upload,
        query=KeyQuery(
            stored=ground.stored_keys,
            cross_signing=cross_signing,
            remote=remote_keys,
            is_local=is_local,
        ),
        claim=KeyClaim(counts=counts, remote=remote_keys, is_local=is_local),
        cross_signing=CrossSigning(
            database=database,
            store=cross_signing,
            device_keys=device_keys,
            lists=lists,
            reauthentication=reauthentication,
        ),
        signatures=Signatures(
            origin=origin,
            database=database,
            store=cross_signing,
            device_keys=device_keys,
            lists=lists,
            news=news,
            committer=committer,
            remote=remote_keys,
            is_local=is_local,
        ),
        to_device=to_device,
        backups=KeyBackups(database, KeyBackupStore(database)),
        dehydrated=DehydratedDevices(
            database=database,
            store=DehydratedDeviceStore(database),
            upload=upload,
            lists=lists,
            counts=counts,
            to_device=to_device,
            now=now,
        ),
        upkeep=Upkeep(reactor, lists, to_device, my_turn),
    )
