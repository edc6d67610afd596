# SPDX-License-Identifier: Apache-2.0
"""Another server as far as devices are concerned, spoken to in memory, and our process as it speaks to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from federation.client.answers import DeviceListAnswer
from federation.client.errors import Unreachable
from federation.devices.announcing import DeviceAnnouncer
from federation.devices.lists import RemoteLists
from federation.devices.messages import FederatedDevices
from federation.devices.remote_keys import FederatedKeys
from federation.edus.device_list_update import DeviceListEdus
from federation.edus.direct_to_device import DirectToDeviceEdus
from federation.edus.signing_key_update import SigningKeyEdus
from federation.outbound.outbox import OutgoingEdu
from homeserver.devices.services import DeviceGround, build_stored_keys
from storage.cross_signing import CrossSigningStore
from storage.database import Database
from storage.device_lists import DeviceListStore, RemoteDeviceListStore
from tests.devices.devices_fixture import START, Device, Identity, Process
from tests.reactor import reactor

THEIRS = "elsewhere.example"
XENIA, YVES = f"@xenia:{THEIRS}", f"@yves:{THEIRS}"


@dataclass(slots=True)
class TheirServer:
    """Its users' devices, and what it was asked. Set `away` and it cannot be reached, `told` and it is slow once."""

    devices: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    masters: dict[str, Any] = field(default_factory=dict)
    self_signing: dict[str, Any] = field(default_factory=dict)
    stream_ids: dict[str, int] = field(default_factory=dict)
    one_time_keys: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    away: bool = False
    told: Deferred[None] | None = None
    """When the next list of devices, as it is when it is asked for, arrives."""

    def has(self, user_id: str, device_id: str, **keys: Any) -> Device:
        """Give a user a device; the change has the next stream id."""
        device = Device(user_id, device_id)
        self.devices.setdefault(user_id, {})[device_id] = device.keys(**keys)
        self.stream_ids[user_id] = self.stream_ids.get(user_id, 0) + 1
        return device

    def update(self, user_id: str, device_id: str, **more: Any) -> dict[str, Any]:
        """The update that tells of the newest change."""
        stream_id = self.stream_ids[user_id]
        keys = self.devices[user_id].get(device_id)
        content = {
            "user_id": user_id,
            "device_id": device_id,
            "stream_id": stream_id,
            "prev_id": [stream_id - 1],
        }
        return {**content, **({"deleted": True} if keys is None else {"keys": keys}), **more}

    def _note(self, what: str, of: Any) -> None:
        self.asked.append((what, of))
        if self.away:
            raise Unreachable(THEIRS, "away")

    async def user_devices(self, destination: str, user_id: str) -> DeviceListAnswer:
        self._note("user_devices", user_id)
        assert destination == THEIRS
        devices = [{"device_id": name, "keys": keys} for name, keys in self.devices.get(user_id, {}).items()]
        answer = DeviceListAnswer(
            user_id=user_id,
            stream_id=self.stream_ids.get(user_id, 0),
            devices=devices,
            master_key=self.masters.get(user_id),
            self_signing_key=self.self_signing.get(user_id),
        )
        told, self.told = self.told, None
        if told is not None:
            await told
        return answer

    async def keys_query(
        self, destination: str, device_keys: Mapping[str, Sequence[str]], *, timeout: float
    ) -> Mapping[str, Any]:
        self._note("keys_query", sorted(device_keys))
        assert timeout > 0
        return {
            "device_keys": {user: self.devices.get(user, {}) for user in (*device_keys, "@forged:localhost")},
            "master_keys": self.masters,
            "self_signing_keys": self.self_signing,
        }

    async def keys_claim(
        self, destination: str, one_time_keys: Mapping[str, Mapping[str, str]], *, timeout: float
    ) -> Mapping[str, Any]:
        self._note("keys_claim", one_time_keys)
        return self.one_time_keys


class Outbox:
    """What is kept for other servers, as it would go out: through JSON."""

    def __init__(self) -> None:
        self.kept: list[OutgoingEdu] = []
        self.failing = False

    async def keep(self, edus: Sequence[OutgoingEdu]) -> None:
        if self.failing:
            raise OSError
        self.kept += [
            OutgoingEdu(each.destination, each.edu_type, orjson.loads(orjson.dumps(each.content)))
            for each in edus
        ]

    def taken(self) -> list[OutgoingEdu]:
        """What came since the last look."""
        kept, self.kept = self.kept, []
        return kept


class Neighbours:
    """Every user of ours shares a room with users of these servers."""

    def __init__(self) -> None:
        self.servers = {THEIRS}

    async def servers_of(self, _user_id: str) -> set[str]:
        return self.servers


@dataclass(slots=True, kw_only=True)
class Neighbourhood:
    """Our process, the other server, and all that lies between."""

    process: Process
    theirs: TheirServer
    outbox: Outbox
    neighbours: Neighbours
    lists: RemoteLists
    announcer: DeviceAnnouncer
    clock: Clock
    edus: Mapping[str, Any]

    @classmethod
    async def open(cls, database: Database, theirs: TheirServer | None = None) -> Neighbourhood:
        theirs = theirs or TheirServer()
        outbox, neighbours, clock = Outbox(), Neighbours(), Clock()
        announcer = DeviceAnnouncer(
            clock,
            database=database,
            store=DeviceListStore(database),
            keys=build_stored_keys(database, "localhost"),
            neighbours=neighbours,
            outbox=outbox,
        )
        made: list[RemoteLists] = []

        def keys(ground: DeviceGround, user_rooms: Any) -> FederatedKeys:
            made.append(
                RemoteLists(
                    clock,
                    database=database,
                    store=RemoteDeviceListStore(database, "localhost"),
                    cross_signing=CrossSigningStore(database),
                    calls=theirs,
                    user_rooms=user_rooms,
                    changes=ground.lists,
                    now=lambda: START,
                )
            )
            return FederatedKeys(clock, calls=theirs, lists=made[0])

        process = await Process.open(
            database, keys=keys, devices=FederatedDevices(outbox), announcing=announcer
        )
        lists = made[0]
        edus = {
            "m.direct_to_device": DirectToDeviceEdus(process.devices.to_device).receive,
            "m.device_list_update": DeviceListEdus(lists).receive,
            "m.signing_key_update": SigningKeyEdus(lists).receive,
        }
        return cls(
            process=process,
            theirs=theirs,
            outbox=outbox,
            neighbours=neighbours,
            lists=lists,
            announcer=announcer,
            clock=clock,
            edus=edus,
        )

    async def tell(self, edu_type: str, content: Mapping[str, Any], origin: str = THEIRS) -> None:
        """An EDU of the other server arrives."""
        await self.edus[edu_type](origin, content)

    async def quiet(self) -> None:
        """Let what runs by itself come to rest."""
        while self.lists._reading or self.lists._waiting or self.announcer._working is not None:
            await deferLater(reactor, 0)

    async def query(self, asking: str, *users: str) -> Any:
        """The answer to `/keys/query`, with everything at rest afterwards."""
        answer = await self.process.query(asking, dict.fromkeys(users, ()), 5)
        await self.quiet()
        return answer

    def asked(self) -> list[str]:
        """What the other server was asked since the last look."""
        asked, self.theirs.asked = self.theirs.asked, []
        return [what for what, _ in asked]

    def gains_identity(self, user_id: str, generation: str = "1") -> dict[str, object]:
        """Give one of their users cross-signing keys."""
        keys = Identity(user_id, generation).keys()
        self.theirs.masters[user_id], self.theirs.self_signing[user_id] = keys["master"], keys["self_signing"]
        return keys
