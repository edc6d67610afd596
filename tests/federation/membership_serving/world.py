# SPDX-License-Identifier: Apache-2.0
"""This server with rooms, behind HTTP, and other servers that shake hands with it.

`Serving` puts the endpoints together as `homeserver/app` does; `Visitor` is another server with its user, which asks
for templates, fills them in, signs and sends them, honestly unless a test changes something in between.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.task import deferLater

from federation.authentication import RequestAuthentication
from federation.client.answers import MembershipTemplate
from federation.inbound.reading import PduReader
from federation.keys.keyring import Keyring
from federation.keys.own import OwnKeys
from federation.membership.templates import Templates as Rebuilding
from federation.serving.exchange_third_party_invite import ExchangeThirdPartyInvite
from federation.serving.invite import ReceiveInvite
from federation.serving.invitees import Invitees
from federation.serving.join_answers import JoinAnswers
from federation.serving.make_join import MakeJoin
from federation.serving.make_knock import MakeKnock
from federation.serving.make_leave import MakeLeave
from federation.serving.restricted_joins import RestrictedJoins
from federation.serving.send_join import SendJoin
from federation.serving.send_knock import SendKnock
from federation.serving.send_leave import SendLeave
from federation.serving.templates import Templates
from federation.serving.threepid_onbind import ThreepidOnBind
from homeserver.config.sections import Listener
from homeserver.observability.access_log import AccessLog
from homeserver.observability.log_output import LogOutput
from homeserver.observability.metrics import HttpMetrics
from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.hashes import content_hash, event_id_of
from homeserver.protocol.room_versions import room_version
from homeserver.protocol.signing import sign_pdu
from homeserver.protocol.unpadded_base64 import encode_base64
from homeserver.rooms.arrival.out_of_band import OutOfBand
from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.engine import Plan, RoomHead
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.intake.knowledge import States
from homeserver.rooms.intake.room_intake import RoomIntake
from homeserver.rooms.server_access import ServerGate
from homeserver.web.listeners import WebServer
from homeserver.web.rate_limits import RateLimits
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.memberships import MembershipStore
from storage.pdus import PduStore
from storage.received import ReceivedStore
from storage.room_history import RoomHistoryStore
from storage.server_keys import ServerKeyStore
from storage.server_memberships import ServerMembershipStore
from storage.state import StateStore
from storage.users import UserStore
from tests.federation.servers import Network, RemoteServer, now_ms
from tests.reactor import reactor
from tests.rooms.engine_fixture import Engine
from tests.rooms.services_fixture import House
from tests.web.loopback import Answer, Loopback, Tokens

US = "localhost"
V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
VERSIONS = ("1", "6", "10", "11", "12")
SPEAKS = [("ver", str(number)) for number in range(1, 13)]


@dataclass(slots=True)
class Inviter:
    """Stands for inviting users of other servers: prepares the invite, and keeps it."""

    intake: RoomIntake
    invited: list[dict[str, Any]] = field(default_factory=list)

    async def invite(self, room_id: str, user_id: str, plan: Plan, *, users: Sequence[str]) -> str:
        prepared = await self.intake.prepare(room_id, plan, users)
        assert prepared.event.state_key == user_id
        self.invited.append(prepared.event.pdu)
        return prepared.event.event_id


@dataclass(slots=True)
class Exchanges:
    """Stands for the servers of inviters."""

    asked: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)

    async def exchange_third_party_invite(
        self, destination: str, room_id: str, event: Mapping[str, Any]
    ) -> None:
        self.asked.append((destination, room_id, event))


@dataclass(slots=True)
class Ignoring:
    """Whom users ignore."""

    by_user: dict[str, frozenset[str]] = field(default_factory=dict)

    async def ignored(self, user_id: str) -> frozenset[str]:
        return self.by_user.get(user_id, frozenset())


async def breathe() -> None:
    """Let others have the reactor."""
    await deferLater(reactor, 0)


def open_intake(database: Database, engine: Engine) -> RoomIntake:
    """The intake of a process."""
    states, store = States(RoomHistoryStore(database)), ArrivalStore(database)
    engine.stream.subscribe(states)
    return RoomIntake(
        engine=engine.engine,
        events=engine.events,
        received=ReceivedStore(database, engine.stream.origin),
        states=states,
        outliers=Outliers(store=store, events=engine.events, pause=breathe),
        stubs=store,
    )


class Serving(Loopback):
    """Everything that is served; close it with `await stop()`."""

    def __init__(self, database: Database, house: House, *servers: RemoteServer) -> None:
        engine = house.engine
        self.database = database
        self.house = house
        self.signer = engine.engine.signer
        self.network = Network(*servers)
        self.keyring = Keyring(
            own=OwnKeys(server_name=US, signing_key=self.signer.key, now=now_ms),
            store=ServerKeyStore(database),
            wire=self.network,
            now=now_ms,
        )
        self.reader = PduReader(self.keyring, breathe=breathe)
        self.intake = open_intake(database, engine)
        memberships = ServerMembershipStore(database)
        self.gate = ServerGate(
            server_name=US,
            cache=engine.cache,
            events=engine.events,
            memberships=memberships,
            history=RoomHistoryStore(database),
        )
        self.out_of_band = OutOfBand(
            cache=engine.cache,
            stream=engine.stream,
            committer=engine.committer,
            store=ArrivalStore(database),
            events=engine.events,
            memberships=MembershipStore(database),
            signer=self.signer,
            now=now_ms,
        )
        self.ignoring = Ignoring()
        self.inviter, self.exchanges = Inviter(self.intake), Exchanges()
        self.limits = RateLimits(reactor.seconds, enabled=False)
        self._connections = []
        self._tls = None
        self.server = WebServer(
            reactor,
            routes=self._routes(memberships),
            authenticator=Tokens({}),
            server_authenticator=RequestAuthentication(server_name=US, keys=self.keyring, limits=self.limits),
            limits=self.limits,
            metrics=HttpMetrics(),
            access_log=AccessLog(LogOutput(io.StringIO())),
            max_body=8 * 2**20,
        )
        self.open = self.server.listen(Listener(port=0, serves=("federation",)))

    def _routes(self, memberships: ServerMembershipStore) -> list[Any]:
        engine = self.house.engine
        invitees = Invitees(
            server_name=US,
            users=UserStore(self.database),
            ignoring=self.ignoring,
            permissions=self.house.world,
        )
        templates = Templates(server_name=US, gate=self.gate, intake=self.intake)
        restricted = RestrictedJoins(server_name=US, rooms=memberships)
        endpoints = (
            MakeJoin(templates=templates, restricted=restricted),
            MakeLeave(templates=templates),
            MakeKnock(templates=templates),
            SendJoin(
                signer=self.signer,
                gate=self.gate,
                reader=self.reader,
                intake=self.intake,
                restricted=restricted,
                answers=JoinAnswers(
                    server_name=US,
                    events=engine.events,
                    state=StateStore(self.database),
                    pdus=PduStore(self.database),
                ),
            ),
            SendLeave(gate=self.gate, reader=self.reader, intake=self.intake),
            SendKnock(gate=self.gate, reader=self.reader, intake=self.intake),
            ReceiveInvite(
                signer=self.signer,
                cache=engine.cache,
                gate=self.gate,
                reader=self.reader,
                keys=self.keyring,
                intake=self.intake,
                out_of_band=self.out_of_band,
                invitees=invitees,
            ),
            ExchangeThirdPartyInvite(server_name=US, gate=self.gate, inviting=self.inviter),
            ThreepidOnBind(
                server_name=US,
                cache=engine.cache,
                intake=self.intake,
                exchanging=self.exchanges,
                invitees=invitees,
            ),
        )
        return [route for endpoint in endpoints for route in endpoint.routes()]

    async def add_user(self, user_id: str, *, deactivated: bool = False) -> None:
        """An account."""
        await self.database.execute(
            "test_add_user",
            "INSERT INTO users (user_id, created_ts, deactivated) VALUES (%s, 0, %s)",
            (user_id, deactivated),
        )

    async def head(self, room_id: str) -> RoomHead:
        """A room as it stands."""
        return await self.house.head(room_id)

    async def signed(self, server: RemoteServer, method: str, target: str, content: Any = None) -> Answer:
        """A request of a server."""
        header = server.authorization(US, method, target, content)
        body = None if content is None else json.dumps(content).encode()
        return await self.request(method, target, body=body, headers={"Authorization": header})


def path(prefix: str, *segments: str, query: Sequence[tuple[str, str]] = ()) -> str:
    """A target, its segments encoded."""
    target = "/".join((prefix, *(quote(segment, safe="") for segment in segments)))
    return target + ("?" + urlencode(query) if query else "")


@dataclass(frozen=True, slots=True)
class Visitor:
    """A user of another server, which speaks for them."""

    serving: Serving
    server: RemoteServer
    name: str = "alice"

    @property
    def user_id(self) -> str:
        return self.server.user(self.name)

    async def make(
        self, kind: str, room_id: str, *, query: Sequence[tuple[str, str]] = SPEAKS, user_id: str = ""
    ) -> Answer:
        """`make_join`, `make_leave` or `make_knock`."""
        target = path(V1, f"make_{kind}", room_id, user_id or self.user_id, query=query)
        return await self.serving.signed(self.server, "GET", target)

    async def filled(self, kind: str, room_id: str, **content: Any) -> BuiltEvent:
        """The event made of a template, by the rules that bind the other side."""
        answer = await self.make(kind, room_id)
        assert answer.status == 200, answer.raw
        template = MembershipTemplate(answer.json["room_version"], answer.json["event"])
        rebuilding = Rebuilding(signer=Signer(self.server.name, self.server.key), now=now_ms)
        return rebuilding.rebuild(
            US,
            template,
            room_version(template.room_version),
            room_id=room_id,
            user_id=self.user_id,
            content={"membership": kind, **content},
        )

    async def send(
        self,
        kind: str,
        room_id: str,
        pdu: Any,
        *,
        event_id: str,
        under: str = V2,
        query: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """`send_join`, `send_leave` or `send_knock`."""
        target = path(under, f"send_{kind}", room_id, event_id, query=query)
        return await self.serving.signed(self.server, "PUT", target, pdu)

    async def join(self, room_id: str, *, query: Sequence[tuple[str, str]] = ()) -> Answer:
        """The whole handshake; the last answer."""
        event = (await self.filled("join", room_id)).event
        return await self.send("join", room_id, event.pdu, event_id=event.event_id, query=query)

    def forged(self, pdu: Mapping[str, Any], version: str, **changes: Any) -> dict[str, Any]:
        """An event with some fields changed (None: left out), its hash and signature made anew."""
        fields = {**pdu, **changes, "signatures": {}}
        fields = {key: value for key, value in fields.items() if value is not None}
        kind = room_version(version)
        fields["hashes"] = {"sha256": encode_base64(content_hash(fields, kind))}
        return sign_pdu(fields, kind, self.server.name, self.server.key)


def id_of(pdu: Mapping[str, Any], version: str) -> str:
    """The id of an event."""
    return event_id_of(dict(pdu), room_version(version))
