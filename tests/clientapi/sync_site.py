# SPDX-License-Identifier: Apache-2.0
"""`/sync` and the WebSocket on a port of loopback, for users whose tokens are their names, and a WebSocket client."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import orjson
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from homeserver.clientapi.syncing import syncing_routes
from homeserver.clientapi.token_watch import TokenWatch
from homeserver.clientapi.websocket.methods import MethodServices
from homeserver.config.sections import Listener
from homeserver.errors import Forbidden, NotFound, UnknownToken
from homeserver.observability.access_log import AccessLog
from homeserver.observability.log_output import LogOutput
from homeserver.observability.metrics import HttpMetrics
from homeserver.receipts.service import Marks
from homeserver.sync.foreign_wakes import ForeignWakes
from homeserver.sync.long_poll import LongPoll
from homeserver.sync.wanted_filters import WantedFilters
from homeserver.web.authentication import Requester
from homeserver.web.listeners import WebServer
from homeserver.web.rate_limits import RateLimits
from homeserver.web.request import MatrixRequest
from storage.database import Database
from tests.reactor import reactor
from tests.rooms.services_fixture import House
from tests.sync.sync_fixture import Process
from tests.web.loopback import Answer, Connection

PATH = "/_matrix/client/ws/r0"


class Sessions:
    """Tokens are names, perhaps with a dot and a device; one may be revoked, and who watches its user is told."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.epoch = 0
        self.watchers: dict[str, list[Callable[[], None]]] = {}

    async def authenticate(self, token: str, request: MatrixRequest) -> Requester:
        name, _, device = token.partition(".")
        if token in self.revoked or name not in ("alice", "bob", "guest"):
            raise UnknownToken
        return Requester(user_id=f"@{name}:localhost", device_id=device or "DEVICE", is_guest=name == "guest")

    def watch(self, user_id: str, callback: Callable[[], None]) -> Callable[[], None]:
        self.watchers.setdefault(user_id, []).append(callback)
        return lambda: self.watchers[user_id].remove(callback)

    def revoke(self, token: str) -> None:
        self.revoked.add(token)
        self.epoch += 1
        for callback in tuple(self.watchers.get(f"@{token}:localhost", ())):
            callback()


class Beside:
    """Typing, receipts and presence, as far as a session asks for them."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.done: list[tuple[Any, ...]] = []

    async def set(self, user_id: str, target: str, room_id: str, *, typing: bool, timeout_ms: int) -> None:
        await self._house.engine.gate.access_joined_room(user_id, room_id)
        self.done.append(("typing", user_id, typing, timeout_ms))

    async def mark(self, user_id: str, room_id: str, marks: Marks) -> None:
        self.done.append(("marks", user_id, marks))

    async def put(
        self,
        user_id: str,
        target: str,
        device_id: str | None,
        state: str,
        status_msg: str | None,
        *,
        keep_status: bool,
    ) -> None:
        if target != user_id:
            raise Forbidden("not yours")
        self.done.append(("presence", user_id, state, status_msg, keep_status))

    def active(self, user_id: str) -> None:
        self.done.append(("active", user_id))


class Uploaded:
    """One uploaded filter, of Alice's."""

    def __init__(self) -> None:
        self.asked = 0
        self.held: Deferred[None] | None = None
        """What answers wait for."""

    async def get(self, user_id: str, filter_id: str) -> str:
        self.asked += 1
        if self.held is not None:
            await self.held
        if (user_id, filter_id) != ("@alice:localhost", "f1"):
            raise NotFound("No such filter")
        return '{"room":{"timeline":{"limit":1}}}'


class SyncSite:
    """A house behind HTTP and WebSocket. Rate limits have a clock that stands still."""

    def __init__(self, house: House, *, limited: bool = False) -> None:
        self.house = house
        self.process = Process.on(house.engine)
        self.sessions = Sessions()
        self.beside = Beside(house)
        self.uploaded = Uploaded()
        stream = house.engine.stream
        stream.subscribe(ForeignWakes(house.engine.user_rooms, stream.listeners, house.engine.cache))
        limits = RateLimits(lambda: 0.0, enabled=limited)
        beside: Any = self.beside
        self._server = WebServer(
            reactor,
            routes=syncing_routes(
                reactor,
                long_poll=LongPoll(self.process.sync, stream.listeners, reactor),
                filters=WantedFilters(self.uploaded),
                sightings=self.process.fakes.presence,
                methods=MethodServices(
                    sending=house.rooms.sending,
                    setting_state=house.rooms.setting_state,
                    typing=beside,
                    receipts=beside,
                    presence=beside,
                ),
                tokens=TokenWatch(self.sessions, self.sessions),
                limits=limits,
            ),
            authenticator=self.sessions,
            limits=limits,
            metrics=HttpMetrics(),
            access_log=AccessLog(LogOutput(io.StringIO())),
            max_body=1_000_000,
        )
        self._port: int = self._server.listen(Listener(port=0)).port.getHost().port
        self._connections: list[Any] = []

    @classmethod
    async def open(cls, database: Database, *, limited: bool = False) -> SyncSite:
        return cls(await House.open(database), limited=limited)

    async def get(self, path: str, token: str | None = "alice", **query: str) -> Answer:
        """One request on a connection of its own."""
        connection = await self.connection()
        return await connection.request("GET", path + (f"?{urlencode(query)}" if query else ""), token=token)

    async def connection(self) -> Connection:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
        connection: Connection = await connectProtocol(endpoint, Connection())  # type: ignore[no-untyped-call]
        self._connections.append(connection)
        return connection

    async def socket(
        self,
        token: str | None = "alice",
        *,
        path: str = PATH,
        protocols: list[str] | None = None,
        **query: str,
    ) -> Socket:
        """A WebSocket that is open. Raises ConnectionError with the HTTP status if it was refused."""
        if token is not None:
            query["access_token"] = token
        url = f"ws://127.0.0.1:{self._port}{path}?{urlencode(query)}"
        factory: Any = WebSocketClientFactory(url, protocols=protocols, reactor=reactor)  # type: ignore[no-untyped-call]
        factory.setProtocolOptions(
            openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0
        )
        socket = Socket(factory)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
        await connectProtocol(endpoint, socket)  # type: ignore[no-untyped-call]
        self._connections.append(socket)
        await socket.until(lambda: socket.opened or socket.closed is not None)
        if not socket.opened:
            raise ConnectionError(socket.closed)
        return socket

    async def stop(self) -> None:
        """Drop the connections, then stop."""
        for connection in self._connections:
            connection.drop()
        await self._server.stop(1.0)


class Socket(WebSocketClientProtocol):
    """A WebSocket client that keeps what it gets."""

    transport: Any

    def __init__(self, factory: Any) -> None:
        super().__init__()
        self.factory = factory
        self.opened = False
        self.closed: tuple[int | None, str | None] | None = None
        self.subprotocol: str | None = None
        self.frames: list[dict[str, Any]] = []
        self.pings = 0
        self.mute = False
        """Answer no ping."""
        self._waiting: Deferred[None] | None = None

    def onConnect(self, response: Any) -> None:
        self.subprotocol = response.protocol

    def onOpen(self) -> None:
        self.opened = True
        self._wake()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        self.frames.append(orjson.loads(payload))
        self._wake()

    def onPing(self, payload: bytes) -> None:
        self.pings += 1
        if not self.mute:
            super().onPing(payload)
        self._wake()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N803
        self.closed = (code, reason)
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait for frames or the end until `met`. Raises EOFError if the end comes first."""
        while not met():
            if self.closed is not None:
                raise EOFError(self.closed)
            self._waiting = Deferred()
            await self._waiting

    @property
    def updates(self) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if "id" not in frame]

    async def update(self, number: int) -> dict[str, Any]:
        """The update of that number."""
        await self.until(lambda: len(self.updates) > number)
        return self.updates[number]

    async def call(self, call_id: str, method: str, **params: Any) -> Any:
        """The response to a request."""
        self.write(orjson.dumps({"id": call_id, "method": method, "params": params}))
        return await self.answer(call_id)

    async def answer(self, call_id: str | None) -> Any:
        """The response with an id; it is taken."""

        def found() -> list[dict[str, Any]]:
            return [frame for frame in self.frames if "id" in frame and frame["id"] == call_id]

        await self.until(lambda: bool(found()))
        answer = found()[0]
        self.frames.remove(answer)
        return answer

    def write(self, payload: bytes, *, binary: bool = False) -> None:
        self.sendMessage(payload, isBinary=binary)  # type: ignore[no-untyped-call]

    def drop(self) -> None:
        """Go away without a word."""
        self.transport.abortConnection()
