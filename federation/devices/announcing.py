# SPDX-License-Identifier: Apache-2.0
"""Telling the servers that share a room with our users of changes of their devices and cross-signing keys.

`m.device_list_update` and `m.signing_key_update` (server-server API, "Device Management"). What is to be announced was
written with the change itself; one process at a time takes it, in order, and removes it when it is in the outbox: so
each is announced at least once, whatever ends in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from federation.outbound.outbox import OutgoingEdu
from homeserver.devices.querying import KeysAnswer
from homeserver.needs import Protocol
from storage.database import Database, Transaction
from storage.device_lists import Announcement, DeviceListStore

PORTION: Final = 100
UNITS_AT_ONCE: Final = 500
ROUND_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 1.0
"""Until it is tried again where another process is announcing: it may have read what there was before we were due."""
UPDATE: Final = "m.device_list_update"


class Outbox(Protocol):
    """`federation.outbound.Outbox`."""

    async def keep(self, edus: Sequence[OutgoingEdu]) -> None: ...


class Neighbours(Protocol):
    """`homeserver.rooms.neighbours.Neighbours`."""

    async def servers_of(self, user_id: str) -> Collection[str]: ...


class Keys(Protocol):
    """`homeserver.devices.querying.StoredKeys`."""

    async def query_for_server(self, wanted: Mapping[str, Sequence[str]]) -> KeysAnswer: ...


class DeviceAnnouncer:
    """One per process. See `homeserver.devices.remote.Announcing`."""

    wanted = True
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        database: Database,
        store: DeviceListStore,
        keys: Keys,
        neighbours: Neighbours,
        outbox: Outbox,
    ) -> None:
        self._reactor = reactor
        self._database = database
        self._store = store
        self._keys = keys
        self._neighbours = neighbours
        self._outbox = outbox
        self._again = False
        self._stopped = False
        self._retry_call: Any = None
        self._working: Deferred[None] | None = None
        self._loop = LoopingCall(self.due)
        self._loop.clock = reactor

    def start(self) -> None:
        """Announce what was left by another process, and look for such now and then."""
        self._loop.start(ROUND_SECONDS)

    async def stop(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        if self._loop.running:
            self._loop.stop()
        self._stopped = True
        self._again = False
        self._forget_retry()
        if self._working is not None:
            await self._working

    def due(self) -> None:
        """There may be something to announce."""
        if self._stopped:
            return
        if self._working is not None:
            self._again = True
            return
        working = Deferred.fromCoroutine(self._work())
        if not working.called:  # a database that takes nothing more says so at once
            self._working = working

    async def introduce(self, user_ids: Collection[str], servers: Collection[str]) -> None:
        """Tell servers that did not share a room with these users before of all of their devices."""
        left = iter(sorted(user_ids))
        while portion := list(islice(left, PORTION)):
            stream_ids = await self._store.stream_ids(portion)
            answer = await self._keys.query_for_server(dict.fromkeys(portion, ()))
            contents = [
                content
                for user_id in portion
                for content in _all_of(
                    user_id, stream_ids.get(user_id, 0), answer.device_keys.get(user_id, {})
                )
            ]
            units = (
                # Who comes and goes is introduced once to a server that is away.
                OutgoingEdu(server, UPDATE, content, f"{content['user_id']} {content['device_id']}")
                for server in sorted(servers)
                for content in contents
            )
            while some := list(islice(units, UNITS_AT_ONCE)):
                await self._outbox.keep(some)

    async def _work(self) -> None:
        try:
            while True:
                self._again = False
                while (announced := await self._announce()) == PORTION:
                    pass
                self._forget_retry()
                if announced is None:
                    self._try_later()
                    break
                if not self._again:
                    break
        except Exception:
            self._log.failure("changes of devices could not be announced; it is tried again")
        finally:
            self._working = None

    def _try_later(self) -> None:
        """Whoever is announcing need not look again; what became due here meanwhile would lie until the next round."""
        if not self._stopped:
            self._retry_call = self._reactor.callLater(RETRY_SECONDS, self._tried_later)

    def _tried_later(self) -> None:
        self._retry_call = None
        self.due()

    def _forget_retry(self) -> None:
        if self._retry_call is not None:
            self._retry_call.cancel()
            self._retry_call = None

    async def _announce(self) -> int | None:
        return await self._database.transaction("announce_devices", self._portion)

    async def _portion(self, txn: Transaction) -> int | None:
        """Announce the oldest changes; how many, or None where another process is announcing.

        The lock is held meanwhile, so that their order stays.
        """
        if not await self._store.lock_announcing_txn(txn):
            return None
        announcements = await self._store.announcements_txn(txn, PORTION)
        if announcements:
            await self._outbox.keep(await self._edus(announcements))
            await self._store.announced_txn(txn, announcements)
        return len(announcements)

    async def _edus(self, announcements: Sequence[Announcement]) -> list[OutgoingEdu]:
        users = {each.user_id for each in announcements}
        servers = {user_id: sorted(await self._neighbours.servers_of(user_id)) for user_id in users}
        users = {user_id for user_id in users if servers[user_id]}
        answer = await self._keys.query_for_server(dict.fromkeys(users, ()))
        edus: list[OutgoingEdu] = []
        for each in announcements:
            if not servers[each.user_id]:
                continue
            edu_type, content = _content(each, answer)
            edus += [OutgoingEdu(server, edu_type, content) for server in servers[each.user_id]]
        return edus


def _content(announcement: Announcement, answer: KeysAnswer) -> tuple[str, dict[str, Any]]:
    user_id, device_id = announcement.user_id, announcement.device_id
    if not device_id:
        content: dict[str, Any] = {"user_id": user_id}
        for name, keys in (
            ("master_key", answer.master_keys),
            ("self_signing_key", answer.self_signing_keys),
        ):
            if user_id in keys:
                content[name] = keys[user_id]
        return "m.signing_key_update", content
    stream_id = announcement.stream_id or 0
    previous = [stream_id - 1] if stream_id > 1 else []
    device = answer.device_keys.get(user_id, {}).get(device_id)
    return UPDATE, _update(user_id, device_id, stream_id, previous, device)


def _all_of(
    user_id: str, stream_id: int, devices: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Updates with all devices of a user. The first names none before it, so that who keeps a list reads it anew; the
    others follow on the first, so that nobody does so twice."""
    previous: list[int] = []
    for device_id, keys in sorted(devices.items()):
        yield _update(user_id, device_id, stream_id, previous, keys)
        previous = [stream_id]


def _update(
    user_id: str, device_id: str, stream_id: int, previous: list[int], keys: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The content of an update; `keys` None: the device is gone."""
    update: dict[str, Any] = {
        "user_id": user_id,
        "device_id": device_id,
        "stream_id": stream_id,
        "prev_id": previous,
    }
    if keys is None:
        return {**update, "deleted": True}
    name = keys["unsigned"].get("device_display_name")
    if name is not None:
        update["device_display_name"] = name
    update["keys"] = {key: value for key, value in keys.items() if key != "unsigned"}
    return update
