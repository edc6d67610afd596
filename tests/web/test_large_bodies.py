# SPDX-License-Identifier: Apache-2.0
"""Bodies that go to disk, and files as responses: whoever sends, waits, reads slowly or goes away in between."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.config.sections import Listener
from homeserver.errors import UnknownToken
from homeserver.spooling import SpoolRoom
from homeserver.web.authentication import Requester
from homeserver.web.channel import Timeouts
from homeserver.web.replies import FileReply, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route
from tests.reactor import reactor, run
from tests.web.loopback import ALICE, Loopback, certificate, request_bytes

QUICK = Timeouts(linger=0.05, look=0.01)
MOST = 3_000_000
CONTENT = bytes(range(256)) * 8000


class SlowTokens:
    """Knows `alice` and `bob`, when the test lets it."""

    def __init__(self) -> None:
        self.gate: Deferred[None] | None = None
        self.gates: dict[int, Deferred[None]] = {}
        """What the first, the second and so on wait for, too."""
        self.asked = 0

    async def authenticate(self, token: str, _request: MatrixRequest) -> Requester:
        self.asked += 1
        if self.gate is not None and self.asked == 1:
            await self.gate
        if self.asked in self.gates:
            await self.gates[self.asked]
        if token not in ("alice", "bob"):
            raise UnknownToken
        return ALICE if token == "alice" else Requester(user_id="@bob:test")


class World:
    """A server with a folder for bodies and a file."""

    def __init__(self, directory: Path, listener: Listener) -> None:
        self.file = directory / "file"
        self.file.write_bytes(CONTENT)
        self.size = len(CONTENT)
        self.spools = SpoolRoom(directory / "incoming", MOST)
        self.tokens = SlowTokens()
        self.handling: Deferred[None] | None = None
        self.entered = False
        routes = (
            Route("POST", "/upload", self.upload, under=ROOT, spool=True, max_body=MOST // 2),
            Route("PUT", "/here", self.here, under=ROOT, auth=Auth.NONE, max_body=1000),
            Route("GET", "/file", self.give, under=ROOT, auth=Auth.NONE),
        )
        self.server = Loopback(
            routes, authenticator=self.tokens, timeouts=QUICK, spools=self.spools, listener=listener
        )

    async def upload(self, request: MatrixRequest) -> Reply:
        assert request.spool is not None
        self.entered = True
        if self.handling is not None:
            await self.handling
        return {"bytes": request.spool.size}

    async def here(self, request: MatrixRequest) -> Reply:
        return {"bytes": len(request.content)}

    async def give(self, _request: MatrixRequest) -> Reply:
        return FileReply(self.file, self.size, {"Content-Type": "application/octet-stream"})

    def waiting(self) -> int:
        """Bodies on the disk."""
        return len(list(self.spools.directory.iterdir())) if self.spools.directory.is_dir() else 0

    def open_files(self) -> int:
        """Descriptors of the file that this process has."""
        found = 0
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                found += descriptor.readlink() == self.file
        return found


@pytest.fixture(params=["plain", "tls"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path, Listener(port=0, tls=certificate(tmp_path) if request.param == "tls" else None))
    yield made
    run(made.server.stop())


async def test_nobody_is_told_to_continue_before_it_is_known_who_it_is(world: World) -> None:
    world.tokens.gate = Deferred()
    connection = await world.server.connect()
    expecting = {"Content-Length": "3", "Expect": "100-continue"}
    connection.send(request_bytes("POST", "/upload", headers=expecting, token="alice"))
    while not world.tokens.asked:
        await _a_moment()
    assert connection.received == b""
    world.tokens.gate.callback(None)
    await connection.until(lambda: connection.received == b"HTTP/1.1 100 Continue\r\n\r\n")
    connection.send(b"abc")
    assert (await connection.response()).json["bytes"] == 3
    assert (await connection.request("POST", "/upload", body=b"abcd", token="alice")).json["bytes"] == 4
    assert world.waiting() == 0


async def test_nobody_is_told_to_continue_because_it_is_known_who_came_before(world: World) -> None:
    """Who is asked about twice is answered as soon as one of the answers is here."""
    world.tokens.gates = {1: Deferred(), 3: Deferred()}
    connection = await world.server.connect()
    assert (await connection.request("POST", "/upload", body=b"abc", token="alice")).json["bytes"] == 3
    expecting = {"Content-Length": "3", "Expect": "100-continue"}
    connection.send(request_bytes("POST", "/upload", headers=expecting, token="nobody"))
    while world.tokens.asked < 3:
        await _a_moment()
    world.tokens.gates[1].callback(None)
    world.tokens.gates[3].callback(None)
    await connection.end()
    assert connection.received.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("token", [None, "nobody"])
async def test_who_is_refused_is_told_nothing_else(world: World, token: str | None) -> None:
    connection = await world.server.connect()
    expecting = {"Content-Length": "3", "Expect": "100-continue"}
    connection.send(request_bytes("POST", "/upload", headers=expecting, token=token))
    await connection.end()
    assert connection.received.startswith(b"HTTP/1.1 401 ")
    assert connection.received.count(b"HTTP/1.1") == 1
    assert world.waiting() == 0


async def test_a_refusal_at_the_last_piece_ends_the_connection(world: World) -> None:
    """Although the request is complete in the eyes of the parser."""
    connection = await world.server.connect()
    chunked = {"Transfer-Encoding": "chunked"}
    connection.send(
        request_bytes("PUT", "/here", headers=chunked) + b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n"
    )
    await connection.end()
    assert connection.received.startswith(b"HTTP/1.1 413 ")


async def test_one_user_leaves_room_for_others(world: World) -> None:
    """However many connections they have, and however slowly they send."""
    held = {"Content-Length": str(MOST // 2)}
    connection = await world.server.connect()
    connection.send(request_bytes("POST", "/upload", headers=held, token="alice") + bytes(MOST // 4))
    while sum(path.stat().st_size for path in world.spools.directory.glob("*")) < MOST // 8:
        await _a_moment()
    greedy = await world.server.connect()
    greedy.send(request_bytes("POST", "/upload", headers=held, token="alice") + bytes(MOST // 2 - 1))
    assert (await greedy.response()).status == 429
    assert (await world.server.request("POST", "/upload", body=bytes(1000), token="bob")).status == 200


async def test_uploads_behind_each_other_and_one_that_breaks_off(world: World) -> None:
    connection = await world.server.connect()
    bodies = [b"a" * 200_000, b"", b"b"]
    connection.send(b"".join(request_bytes("POST", "/upload", body=body, token="alice") for body in bodies))
    assert [(await connection.response()).json["bytes"] for _ in bodies] == [200_000, 0, 1]
    connection.send(request_bytes("POST", "/upload", headers={"Content-Length": "9"}, token="alice") + b"ab")
    while not world.waiting():
        await _a_moment()
    connection.drop()
    while world.waiting():
        await _a_moment()


@pytest.mark.parametrize("when", ["unknown", "handled"])
async def test_who_goes_away_while_they_wait_leaves_nothing(
    world: World, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """Before it is known who they are, and while the body is being kept."""
    gate: Deferred[None] = Deferred()
    body = b"abc"
    if when == "unknown":
        world.tokens.gate, body = gate, b"ab"
    else:
        world.handling = gate
    connection = await world.server.connect()
    connection.send(request_bytes("POST", "/upload", headers={"Content-Length": "3"}, token="alice") + body)
    while not (world.tokens.asked if when == "unknown" else world.entered):
        await _a_moment()
    assert world.waiting() == 1
    connection.drop()
    gate.callback(None)
    while world.waiting() or world.server.open.site.connections:
        await _a_moment()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_file_that_is_gone_or_shorter(world: World) -> None:
    """The first can be said; of the second only the connection's end tells."""
    world.size += 1
    connection = await world.server.connect()
    connection.send(request_bytes("GET", "/file"))
    await connection.end()
    assert f"Content-Length: {world.size}".encode() in connection.received
    world.file.unlink()
    assert (await world.server.request("GET", "/file")).status == 500


async def test_a_file_that_cannot_be_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def read(self, _count: int) -> bytes:
            raise OSError("the disk is broken")

        def close(self) -> None:
            pass

    async def broken(_path: Path, _start: int) -> Broken:
        return Broken()

    monkeypatch.setattr("homeserver.web.files.open_at", broken)
    connection = await world.server.connect()
    connection.send(request_bytes("GET", "/file"))
    await connection.end()
    assert connection.received.startswith(b"HTTP/1.1 200 ")


async def test_files_behind_each_other(world: World) -> None:
    connection = await world.server.connect()
    connection.send(request_bytes("GET", "/file") * 3)
    for _ in range(3):
        assert (await connection.response()).raw == CONTENT


async def test_who_does_not_read_on_and_then_goes_away(world: World) -> None:
    """No more of the file is read than is sent, and nothing of it stays open."""
    world.size = len(CONTENT) * 20
    world.file.write_bytes(CONTENT * 20)
    connection = await world.server.connect()
    transport: Any = connection.transport
    connection.send(request_bytes("GET", "/file"))
    await connection.until(lambda: bool(connection.received))
    transport.pauseProducing()
    assert world.open_files() == 1
    await _a_moment()
    connection.drop()
    while world.open_files():
        await _a_moment()


async def test_what_takes_memory_is_here_in_time_whatever_its_size(tmp_path: Path) -> None:
    """Else a large body might take an hour at the least rate, and so might thousands of them; a file may."""

    async def received(request: MatrixRequest) -> Reply:
        return {"bytes": len(request.content) if request.spool is None else request.spool.size}

    server = Loopback(
        (
            Route("POST", "/upload", received, under=ROOT, spool=True),
            Route("PUT", "/here", received, under=ROOT, auth=Auth.NONE),
        ),
        timeouts=Timeouts(body_rate=1e-3, body_held=0.05, linger=0.05, look=0.01),
        spools=SpoolRoom(tmp_path / "incoming"),
    )
    length = {"Content-Length": "4"}
    file, held = await server.connect(), await server.connect()
    file.send(request_bytes("POST", "/upload", headers=length, token="alice") + b"ab")
    held.send(request_bytes("PUT", "/here", headers=length) + b"ab")
    assert (await held.response()).status == 408
    await held.end()
    file.send(b"cd")
    assert (await file.response()).json["bytes"] == 4
    await server.stop()


async def test_a_stop_lets_a_file_be_sent_to_its_end(world: World) -> None:
    world.size = len(CONTENT) * 3
    world.file.write_bytes(CONTENT * 3)
    connection = await world.server.connect()
    connection.send(request_bytes("GET", "/file"))
    await connection.until(lambda: bool(connection.received))
    stopped = Deferred.fromCoroutine(world.server.server.stop(30.0))
    assert (await connection.response()).raw == CONTENT * 3
    await connection.end()
    await stopped


async def _a_moment() -> None:
    await deferLater(reactor, 0.01)
