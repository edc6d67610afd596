# SPDX-License-Identifier: Apache-2.0
"""Rooms in which people call each other at times of the test's choosing, and the history behind HTTP."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import urlencode

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from homeserver.calls.history.history import CallHistory
from homeserver.clientapi.call_history import CallHistoryEndpoints
from homeserver.config.sections import Listener
from homeserver.observability.access_log import AccessLog
from homeserver.observability.log_output import LogOutput
from homeserver.observability.metrics import HttpMetrics
from homeserver.web.authentication import Requester
from homeserver.web.listeners import WebServer
from homeserver.web.rate_limits import RateLimits
from storage.call_events import CallEventStore
from storage.database import Database
from tests.reactor import reactor
from tests.rooms.engine_fixture import Engine
from tests.rooms.services_fixture import House, User, alice, bob
from tests.web.loopback import Answer, Connection, Tokens

PATH = "/_matrix/client/unstable/org.lares.calls/history"
VIDEO = {
    "type": "offer",
    "sdp": "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n",
}
AUDIO = {"type": "offer", "sdp": "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"}
MEMBER = "org.matrix.msc3401.call.member"
START = 1_700_000_000_000


class HistorySite:
    """Time stands still but for `pass_time`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = START
        self.ignored: set[str] = set()
        self.house: House
        self._connection: Connection | None = None

    async def start(self) -> None:
        engine = await Engine.open(self.database, clock=lambda: self.now)
        self.house = await House.open(self.database, engine=engine)
        history = CallHistory(
            store=CallEventStore(self.database),
            user_rooms=engine.user_rooms,
            gate=engine.gate,
            ignored=self._ignored,
            position=lambda: engine.stream.position,
            now=lambda: self.now,
        )
        self._server = WebServer(
            reactor,
            routes=CallHistoryEndpoints(history).routes(),
            authenticator=Tokens(
                {
                    name: Requester(user_id=f"@{name}:localhost", device_id="DEVICE")
                    for name in ("alice", "bob", "carol")
                }
            ),
            limits=RateLimits(reactor.seconds, enabled=False),
            metrics=HttpMetrics(),
            access_log=AccessLog(LogOutput(io.StringIO())),
            max_body=100_000,
        )
        self._port: int = self._server.listen(Listener(port=0)).port.getHost().port

    async def _ignored(self, _user_id: str) -> set[str]:
        return self.ignored

    async def stop(self) -> None:
        if self._connection is not None and not self._connection.closed:
            self._connection.drop()
        await self._server.stop(1.0)

    async def ask(self, token: str | None, **query: str) -> Answer:
        """One request."""
        if self._connection is None or self._connection.closed:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
            self._connection = await connectProtocol(endpoint, Connection())  # type: ignore[no-untyped-call]
        return await self._connection.request("GET", f"{PATH}?{urlencode(query)}", token=token)

    async def history(self, who: User, **query: str) -> Any:
        """The answer to a request that must succeed."""
        answer = await self.ask(who.user_id[1:].partition(":")[0], **query)
        assert answer.status == 200, answer.raw
        return answer.json

    async def calls(self, who: User, **query: str) -> list[Any]:
        """The calls of it."""
        return list((await self.history(who, **query))["calls"])

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * 1000)

    # What people do.

    async def say(self, who: User, room_id: str, verb: str, call_id: str, /, **content: Any) -> str:
        """Send an event of a call by invite, version 1; keyword arguments over the usual content."""
        usual: dict[str, Any] = {"call_id": call_id, "party_id": who.user_id, "version": "1"}
        if verb == "invite":
            usual |= {"lifetime": 60_000, "offer": AUDIO}
        return await self.house.rooms.sending.send(who, room_id, f"m.call.{verb}", usual | content)

    async def converse(self, room_id: str, call_id: str, seconds: float = 30) -> None:
        """Alice calls Bob, who answers after five seconds."""
        await self.say(alice, room_id, "invite", call_id)
        self.pass_time(5)
        await self.say(bob, room_id, "answer", call_id)
        await self.say(alice, room_id, "select_answer", call_id, selected_party_id=bob.user_id)
        self.pass_time(seconds)
        await self.say(bob, room_id, "hangup", call_id, reason="user_hangup")

    async def enter(self, who: User, room_id: str, call_id: str = "", **content: Any) -> str:
        """Be in a group call."""
        membership = {"application": "m.call", "call_id": call_id, "device_id": "DEVICE", **content}
        return await self.house.set(who, room_id, MEMBER, membership, f"_{who.user_id}_DEVICE_m.call")

    async def go(self, who: User, room_id: str) -> str:
        """Leave it."""
        return await self.house.set(who, room_id, MEMBER, {}, f"_{who.user_id}_DEVICE_m.call")

    async def group_room(self, *members: User) -> str:
        """A room of Alice's in which all may be in group calls."""
        room_id = await self.house.public(*members)
        levels = (await self.house.head(room_id)).state_event("m.room.power_levels", "")
        assert levels is not None
        events = {**levels.event.content.get("events", {}), MEMBER: 0}
        await self.house.set(
            alice, room_id, "m.room.power_levels", {**levels.event.content, "events": events}
        )
        return room_id
