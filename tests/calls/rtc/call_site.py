# SPDX-License-Identifier: Apache-2.0
"""The authorization service over real HTTP, on real rooms, between a LiveKit that remembers and a server elsewhere.

Owns `FakeLiveKit`, which answers as its room service does, and `CallSite`, where alice and bob are of this server
("localhost") and eve of another, whose real OpenID endpoint is asked over HTTP.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import jwt
from prometheus_client import CollectorRegistry

from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.metrics import ClientMetrics
from federation.client.wire import Answer as WireAnswer
from federation.queries.openid import FederatedOpenId
from homeserver.accounts.openid import OpenId
from homeserver.calls.rtc.admission import Admission
from homeserver.calls.rtc.callers import Callers
from homeserver.calls.rtc.leaves import DelegatedLeaves
from homeserver.calls.rtc.removal import Removal
from homeserver.calls.rtc.sfu import LiveKitRooms
from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.clientapi.livekit import LiveKitEndpoints
from homeserver.clientapi.openid import OpenIdEndpoints
from homeserver.clientapi.rtc import SERVICE_PATH
from homeserver.errors import NotFound
from homeserver.outgoing import AddressPolicy
from storage.database import Database
from storage.delayed_events import DelayedEvent, DelayedEventStore, Full, NewDelayedEvent
from storage.delegated_leaves import DelegatedLeaveStore
from storage.livekit_tickets import LiveKitTicketStore
from storage.openid_tokens import OpenIdTokenStore
from tests.federation.servers import make_key
from tests.outgoing.servers import Link, Server, answer, client_of
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, Engine
from tests.web.loopback import Answer, Loopback

OURS, THEIRS, FRIENDS = "localhost", "elsewhere.test", "friends.test"
EVE = f"@eve:{THEIRS}"
URL, KEY, SECRET = "wss://livekit.test", "APIkey", "a secret that LiveKit knows, too, and nobody else"
SLOT = "m.call#ROOM"
START = 1_700_000_000


class Clock:
    """Seconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.seconds = float(START)

    def __call__(self) -> float:
        return self.seconds

    def milliseconds(self) -> int:
        """As stores count."""
        return int(self.seconds * 1000)


class FakeLiveKit:
    """LiveKit's room service, as far as it is asked: rooms are made by whoever may, participants are in them."""

    def __init__(self) -> None:
        self.rooms: dict[str, dict[str, Any]] = {}
        self.participants: set[tuple[str, str]] = set()
        self.broken = False
        self.server = Server(self._answer)

    def _answer(self, link: Link, head: str) -> None:
        method = head.split(" ")[1].removeprefix("/twirp/livekit.RoomService/")
        token = next(line[22:] for line in head.split("\r\n") if line.startswith("Authorization: Bearer "))
        asked = json.loads(self.server.requests[-1][1])
        grants = jwt.decode(token, SECRET, algorithms=["HS256"], issuer=KEY, options=NOT_NOW)["video"]
        status, body = "200 OK", {"sid": "RM_1"}
        if self.broken:
            status, body = "503 Service Unavailable", {"code": "unavailable", "msg": "no nodes"}
        elif method == "CreateRoom" and grants == {"roomCreate": True}:
            self.rooms[asked["name"]] = asked
        elif method == "GetParticipant" and grants == {"roomAdmin": True, "room": asked["room"]}:
            if (asked["room"], asked["identity"]) not in self.participants:
                status, body = "404 Not Found", {"code": "not_found", "msg": "participant does not exist"}
        elif method == "RemoveParticipant" and grants == {"roomAdmin": True, "room": asked["room"]}:
            who = (asked["room"], asked["identity"])
            if who not in self.participants:
                status, body = "404 Not Found", {"code": "not_found", "msg": "participant does not exist"}
            self.participants.discard(who)
        else:
            status, body = "401 Unauthorized", {"code": "unauthenticated", "msg": "permissions denied"}
        link.send(answer(json.dumps(body).encode(), status, Content_Type="application/json"))


NOT_NOW: Any = {"verify_exp": False, "verify_nbf": False}
"""For tokens of `Clock`'s time."""


class _TheirWire:
    """Leads to the servers that there are."""

    def __init__(self, servers: Mapping[str, Loopback]) -> None:
        self._servers = servers
        self.asked: list[str] = []

    async def send(
        self,
        destination: str,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
        max_size: int,
        repeatable: bool = False,
    ) -> WireAnswer:
        self.asked.append(destination)
        got = await self._servers[destination].request(method, target, body=body, headers=headers)
        return WireAnswer(got.status, got.raw)


class _AlwaysTry:
    """An availability that knows of no failures."""

    def may_try(self, destination: str) -> bool:
        return True

    def failed(self, destination: str) -> None:
        pass

    def succeeded(self, destination: str) -> None:
        pass


class Delayed:
    """The delayed events as they are kept, with a note of what is done to them instead of the sending."""

    def __init__(self, database: Database) -> None:
        self._store = DelayedEventStore(database)
        self.done: list[tuple[str, str]] = []

    async def schedule(self, user_id: str, room_id: str, delay_id: str, delay_ms: int = 3_600_000) -> str:
        """A leave event; its delay id."""
        added = await self._store.add(
            NewDelayedEvent(
                delay_id=delay_id,
                user_id=user_id,
                transaction=None,
                room_id=room_id,
                type="org.matrix.msc3401.call.member",
                state_key=f"_{user_id}_DEV_m.call",
                content="{}",
                delay_ms=delay_ms,
            ),
            most=100,
            keep=100,
        )
        assert not isinstance(added, Full)
        return added

    async def get(self, user_id: str, delay_id: str) -> DelayedEvent:
        event = await self._store.get(delay_id)
        if event is None or event.user_id != user_id:
            raise NotFound
        return event

    async def restart(self, delay_id: str) -> None:
        self.done.append(("restart", delay_id))
        if await self._store.restart(delay_id) is None:
            raise NotFound

    async def send(self, delay_id: str) -> None:
        self.done.append(("send", delay_id))
        if not await self._store.cancel(delay_id):
            raise NotFound


class CallSite:
    """See the module."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self.database = database
        self.engine = engine
        self.clock = Clock()
        self.livekit = FakeLiveKit()
        store = OpenIdTokenStore(database)
        self.openid = OpenId(store, self.clock.milliseconds)
        self.elsewhere = Loopback(OpenIdEndpoints(THEIRS, self.openid).routes())
        self.wire = _TheirWire({THEIRS: self.elsewhere, FRIENDS: self.elsewhere})
        # It may reach nothing at all but what it is told to.
        self.http = client_of(policy=AddressPolicy(deny=(ip_network("0.0.0.0/0"), ip_network("::/0"))))
        self.tokens = LiveKitTokens(api_key=KEY, api_secret=SECRET, clock=self.clock)
        metrics = ClientMetrics()
        CollectorRegistry().register(metrics)
        calls = FederationCalls(
            FederationClient(
                server_name=OURS,
                signing_key=make_key(OURS),
                wire=self.wire,
                availability=_AlwaysTry(),
                metrics=metrics,
            )
        )
        self.livekit_rooms = LiveKitRooms(
            http=self.http, url=f"http://127.0.0.1:{self.livekit.server.port}/", tokens=self.tokens
        )
        self.delayed = Delayed(database)
        self.leaves = DelegatedLeaves(
            scheduler=reactor,
            store=DelegatedLeaveStore(database),
            delayed=self.delayed,
            participants=self.livekit_rooms,
        )
        self.removal = Removal(
            scheduler=reactor,
            server_name=OURS,
            store=LiveKitTicketStore(database),
            participants=self.livekit_rooms,
        )
        admission = Admission(
            url=URL,
            leaves=self.leaves,
            tickets=LiveKitTicketStore(database),
            callers=Callers(
                server_name=OURS,
                full_access={FRIENDS},
                own=self.openid,
                remote=FederatedOpenId(calls=calls),
                rooms=engine.cache,
            ),
            rooms=self.livekit_rooms,
            tokens=self.tokens,
        )
        self.service = Loopback(LiveKitEndpoints(admission, self.leaves, self.tokens).routes())

    async def proof(self, user_id: str, server_name: str = OURS) -> dict[str, object]:
        """An OpenID token, as its server gives it."""
        await self.database.execute(
            "user",
            "INSERT INTO users (user_id, created_ts) VALUES (%s, 0) ON CONFLICT DO NOTHING",
            (user_id,),
        )
        made = await self.openid.make(user_id)
        return {
            "access_token": made.token,
            "token_type": "Bearer",
            "matrix_server_name": server_name,
            "expires_in": made.expires_in,
        }

    async def by_device(self, room_id: str, proof: Mapping[str, object], **more: object) -> Answer:
        """`POST …/sfu/get`."""
        return await self.post(
            "/sfu/get", {"room": room_id, "openid_token": proof, "device_id": "DEV", **more}
        )

    async def by_member(
        self, room_id: str, proof: Mapping[str, object], user_id: str = ALICE, **more: object
    ) -> Answer:
        """`POST …/get_token`."""
        member = {"id": "member", "claimed_user_id": user_id, "claimed_device_id": "DEV"}
        body = {"room_id": room_id, "slot_id": SLOT, "openid_token": proof, "member": member, **more}
        return await self.post("/get_token", body)

    async def post(self, path: str, body: object) -> Answer:
        """A request to the service."""
        return await self.service.request("POST", SERVICE_PATH + path, body=json.dumps(body).encode())

    async def stop(self) -> None:
        """End every server and connection."""
        self.http.close()
        await self.service.stop()
        await self.elsewhere.stop()
        await self.livekit.server.stop()


@asynccontextmanager
async def call_site(database: Database) -> AsyncIterator[CallSite]:
    """For the length of the block."""
    site = CallSite(database, await Engine.open(database))
    try:
        yield site
    finally:
        await site.stop()
