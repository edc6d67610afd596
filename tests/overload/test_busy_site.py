# SPDX-License-Identifier: Apache-2.0
"""Requests over HTTP to a server that has too much to do: whose turn they take, and how they are refused."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from homeserver.spooling import SpoolRoom
from homeserver.web.admission import Admission
from homeserver.web.authentication import Requester
from homeserver.web.kinds import Kind
from homeserver.web.lane import MOST_BEGUN_OF_USER, MOST_OF_USER
from homeserver.web.replies import FileReply, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route
from storage.database import DatabaseOverloaded, LockTimeout, StatementTimeout
from tests.overload.test_admission import Busy
from tests.reactor import reactor, run
from tests.web.loopback import Connection, Loopback, request_bytes

UPLOAD = "/_matrix/client/v3/upload"
SEND = "/_matrix/client/v3/rooms/!room:test/send/m.room.message/"
USERS = {name: Requester(user_id=f"@{name}:test", device_id="D") for name in ("alice", "bob")}


class Handlers:
    """Endpoints that note who came, and answer when the test says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sent: list[str] = []
        self.answers: list[Deferred[None]] = []

    async def send(self, request: MatrixRequest) -> Reply:
        self.sent.append(f"{request.requester.user_id} {request.param('txn_id')}")
        answer: Deferred[None] = Deferred()
        self.answers.append(answer)
        await answer
        return {}

    async def at_once(self, _request: MatrixRequest) -> Reply:
        return {}

    async def no_database(self, _request: MatrixRequest) -> Reply:
        raise DatabaseOverloaded("2000 operations wait for the database already")

    async def slow_database(self, request: MatrixRequest) -> Reply:
        raise {"lock": LockTimeout, "statement": StatementTimeout}[request.param("what")]("canceled by 57014")

    async def file(self, request: MatrixRequest) -> Reply:
        return FileReply(self.path, int(request.param("size")), {"Content-Type": "text/plain"})

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/file/{size}", self.file),
            Route("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}", self.send, limit="messages"),
            Route("GET", "/account/whoami", self.at_once),
            Route("POST", "/upload", self.at_once, spool=True, limit="uploads"),
            Route("GET", "/no_database", self.no_database, auth=Auth.NONE),
            Route("GET", "/slow_database/{what}", self.slow_database, auth=Auth.NONE),
        ]


class World:
    def __init__(self, directory: Path) -> None:
        self.handlers = Handlers(directory / "file")
        # However long the test takes, nobody has waited too long.
        self.admission = Admission(Clock(), remembered=lambda token: f"@{token}:test")
        self.site = Loopback(
            self.handlers.routes(), tokens=USERS, admission=self.admission, spools=SpoolRoom(directory)
        )
        self._busy = Busy(self.admission)
        self.admission.looked(False)

    def fill(self, kind: Kind = Kind.ORDINARY) -> None:
        """Take every place, or have as many wait; the server is strained until `end`."""
        self.admission.looked(True)
        self._busy.fill(kind)

    def free(self, count: int) -> None:
        self._busy.done(count)

    async def end(self) -> None:
        self.free(len(self._busy.begun))
        for answer in self.handlers.answers:
            if not answer.called:
                answer.callback(None)
        self.admission.looked(False)
        await self.site.stop()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    run(made.end())


async def _a_moment() -> None:
    turn: Deferred[None] = Deferred()
    reactor.callLater(0.001, turn.callback, None)
    await turn


async def _until_waiting(world: World, count: int) -> None:
    while world.admission.statistics()["waiting"] < count:
        await _a_moment()


async def test_a_request_waits_for_its_turn(world: World) -> None:
    world.fill()
    connection = await world.site.connect()
    waiting = Deferred.fromCoroutine(connection.request("PUT", SEND + "1", body=b"{}", token="alice"))
    await _until_waiting(world, 1)
    assert world.handlers.sent == []
    world.free(1)
    assert world.handlers.sent == ["@alice:test 1"]
    world.handlers.answers[0].callback(None)
    assert (await waiting).status == 200


@pytest.mark.parametrize("hang_up", [Connection.drop, Connection.end_sending])
async def test_nothing_is_sent_for_who_hung_up_before(
    world: World, hang_up: Callable[[Connection], None]
) -> None:
    world.fill()
    gone, stays = await world.site.connect(), await world.site.connect()
    gone.send(request_bytes("PUT", SEND + "1", body=b"{}", token="alice"))
    await _until_waiting(world, 1)
    stays.send(request_bytes("PUT", SEND + "2", body=b"{}", token="bob"))
    await _until_waiting(world, 2)
    hang_up(gone)
    while len(world.site.open.site.connections) > 1:
        await _a_moment()
    world.free(2)
    assert world.handlers.sent == ["@bob:test 2"]


async def test_refusals_are_as_specified_and_whoami_goes_on(world: World) -> None:
    """429 with both ways to say when to come again, for one user; the other's turn comes, and free is free."""
    world.fill()
    most = MOST_OF_USER[Kind.ORDINARY]
    for number in range(most):
        connection = await world.site.connect()
        connection.send(request_bytes("PUT", f"{SEND}{number}", body=b"{}", token="alice"))
    await _until_waiting(world, most)
    refused = await world.site.request("PUT", SEND + "more", body=b"{}", token="alice")
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    wait = refused.json["retry_after_ms"]
    assert 1000 <= wait <= 1000 * int(refused.headers["retry-after"]) < wait + 1000
    assert refused.headers["access-control-allow-origin"] == "*"
    assert (await world.site.request("GET", "/_matrix/client/v3/account/whoami", token="alice")).status == 200
    connection = await world.site.connect()
    connection.send(request_bytes("PUT", SEND + "1", body=b"{}", token="bob"))
    await _until_waiting(world, most + 1)
    world.free(4)
    assert "@bob:test 1" in world.handlers.sent


async def test_an_upload_that_would_wait_is_refused_before_it_is_read(world: World) -> None:
    """As soon as its head is here; what is read then is dropped."""
    world.fill(Kind.HEAVY)
    head = {"Content-Length": "1000"}
    first = await world.site.connect()
    first.send(request_bytes("POST", UPLOAD, headers=head, token="alice") + bytes(1000))
    await _until_waiting(world, 1)
    world.fill(Kind.HEAVY)
    second = await world.site.connect()
    second.send(request_bytes("POST", UPLOAD, headers=head, token="bob"))
    refused = await second.response()
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert int(refused.headers["retry-after"]) >= 1


async def test_without_a_database_it_is_the_servers_fault_and_may_be_tried_again(world: World) -> None:
    answer = await world.site.request("GET", "/_matrix/client/v3/no_database")
    assert (answer.status, answer.errcode) == (503, "M_UNKNOWN")
    assert int(answer.headers["retry-after"]) >= 2
    assert "2000" not in answer.json["error"]


@pytest.mark.parametrize("what", ["lock", "statement"])
async def test_so_it_is_where_the_database_gave_up(
    world: World, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Nothing of it was done. One line in the log for each, while they are many."""
    answer = await world.site.request("GET", f"/_matrix/client/v3/slow_database/{what}")
    assert (answer.status, answer.errcode) == (503, "M_UNKNOWN")
    assert int(answer.headers["retry-after"]) >= 2
    assert "57014" not in answer.json["error"]
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING and record.exc_info is None
    assert "57014" in record.getMessage()


async def test_places_are_given_back(world: World) -> None:
    """By requests that succeed and by those that fail."""
    world.admission.looked(True)
    for path in ("/no_database", "/account/whoami"):
        await world.site.request("GET", "/_matrix/client/v3" + path, token="alice")
    assert world.admission.statistics()["running"] == 0


async def test_who_reads_a_file_slowly_keeps_nobody_waiting(world: World) -> None:
    """Not even the others of one address: what is left is the client's to do, and the place is given back once."""
    size, most = 64 * 2**20, MOST_BEGUN_OF_USER[Kind.ORDINARY]
    with world.handlers.path.open("wb") as file:
        file.truncate(size)
    world.admission.looked(True)
    running = world.site.open.site.running
    slow = await world.site.connect()
    transport: Any = slow.transport
    transport.pauseProducing()
    slow.send(request_bytes("GET", f"/_matrix/client/v3/file/{size}", token="alice"))
    while not running:
        await _a_moment()
    assert world.admission.statistics()["running"] == 0
    for number in range(most):
        connection = await world.site.connect()
        connection.send(request_bytes("PUT", f"{SEND}{number}", body=b"{}", token="alice"))
    while len(world.handlers.sent) < most:
        await _a_moment()
    assert len(running) == most + 1
    slow.drop()
    while len(running) > most:
        await _a_moment()
    assert world.admission.statistics()["running"] == most
