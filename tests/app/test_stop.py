# SPDX-License-Identifier: Apache-2.0
"""Stopping: whatever the moment, requests are answered, nothing is left running, and the exit code is 0."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from homeserver.app.server import GRACE, attempt
from tests.app.looking import database_processes, figures
from tests.app.websockets import CLOSE, GOING_AWAY, close_back, frame, websocket
from tests.serving import Account, Answer, ServerProcess, as_url, postgres, serving
from tests.waiting import wait_until

SIGNALS = [signal.SIGTERM, signal.SIGINT]
MIGRATION_LOCK = 0x6C61726573
LONG_MS = "120000"
TOGETHER = 30.0
"""Seconds: what waits for a database that is gone gives up together after some twenty, one after the other later."""
ATTEMPTS = 3
"""Stops of which one must be quick: what waits in vain does so each time, a machine with much else to do does not."""


@pytest.fixture(autouse=True)
def _ctrl_c_reaches_children() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and what it starts would too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Call(threading.Thread):
    """A request that is under way while the test goes on."""

    def __init__(self, server: ServerProcess, method: str, path: str, **options: Any) -> None:
        super().__init__(daemon=True)
        self._request = partial(server.call, method, path, timeout=150.0, **options)
        self._answer: Answer | None = None
        self.start()

    def run(self) -> None:
        self._answer = self._request()

    @property
    def answer(self) -> Answer:
        """What came, once the server has stopped."""
        self.join(60.0)
        assert self._answer is not None, "the request got no answer"
        return self._answer


def slow_log_in(server: ServerProcess, account: Account) -> Call:
    """A request that takes seconds, since a hash of the password does; returns once it is being answered.

    One that was over before it was seen is followed by another.
    """
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": account.user_id},
        "password": account.password,
    }
    calls = [Call(server, "POST", "/_matrix/client/v3/login", body=body)]

    def under_way() -> bool:
        if not calls[-1].is_alive():
            calls.append(Call(server, "POST", "/_matrix/client/v3/login", body=body))
        return figures(server)["lares_http_in_flight"] == 2

    wait_until(under_way, "the log-in is in flight")
    return calls[-1]


SLOW = {"passwords": {"argon2_time_cost": 16, "argon2_memory": "32MiB"}}


@pytest.mark.parametrize("number", SIGNALS)
def test_requests_in_flight_finish(tmp_path: Path, number: signal.Signals) -> None:
    """The log-in that was being answered is answered; then server and database are gone."""
    with serving(tmp_path, settings=SLOW) as server:
        call = slow_log_in(server, server.register("alice"))
        os.kill(server.pid, number)
        assert server.wait_exit() == 0
        assert call.answer.status == 200
        assert database_processes(server) == []
        server.start()
        token = call.answer.body["access_token"]
        assert server.call("GET", "/_matrix/client/v3/account/whoami", token=token).status == 200


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_changes_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Neither does it cut requests off nor raise in the reactor."""
    with serving(tmp_path, settings=SLOW) as server:
        call = slow_log_in(server, server.register("alice"))
        os.kill(server.pid, number)
        wait_until(lambda: not listens(server), "the server stops listening")
        for again in SIGNALS:
            os.kill(server.pid, again)
        assert server.wait_exit() == 0
        assert call.answer.status == 200
        assert "Traceback" not in server.log()


def listens(server: ServerProcess) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


def test_workers_that_stop_leave_nobody_waiting(tmp_path: Path, database_url: str) -> None:
    """While one answers what it has in hand, who comes is refused, not connected to a socket that nobody reads."""
    url = as_url(database_url)
    with serving(tmp_path, database_url=url, workers=2) as server, closing(psycopg2.connect(url)) as holder:
        alice = server.register("alice")
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE profiles IN EXCLUSIVE MODE")
        path = f"/_matrix/client/v3/profile/{alice.user_id}/displayname"
        call = Call(server, "PUT", path, body={"displayname": "Alice"}, token=alice.access_token)
        wait_until(lambda: waits_for_a_lock(url), "the request waits")
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: not listens(server), "nobody listens")
        assert server.running
        holder.rollback()
        assert server.wait_exit() == 0
        assert call.answer.status == 200


@pytest.mark.parametrize("answers", [True, False], ids=["polite", "asleep"])
def test_those_who_wait_return_at_once(tmp_path: Path, answers: bool) -> None:
    """A long-poll gets its empty answer, a WebSocket its close frame; one that sleeps does not hold up the stop."""
    with serving(tmp_path) as server:
        alice = server.register("alice")
        took = [stopped_while_they_wait(server, alice, answers)]
        while took[-1] >= GRACE / 2 and len(took) < ATTEMPTS:
            server.start()
            took.append(stopped_while_they_wait(server, alice, answers))
        assert took[-1] < GRACE / 2, took


def stopped_while_they_wait(server: ServerProcess, alice: Account, answers: bool) -> float:
    """The seconds that the stop took. Whether the WebSocket `answers` to its close frame is said."""
    unseen = {"set_presence": "offline"}  # else to be online is news, and one of the waits is over
    first = server.call("GET", "/_matrix/client/v3/sync", token=alice.access_token, query=unseen)
    since = first.body["next_batch"]
    # That they are known to be offline may be news by now.
    query = {"since": since, "timeout": LONG_MS, "filter": '{"presence":{"not_types":["*"]}}', **unseen}
    poll = Call(server, "GET", "/_matrix/client/v3/sync", token=alice.access_token, query=query)
    with websocket(server, alice.access_token, since) as connection:
        wait_until(lambda: figures(server)["lares_stream_listeners"] == 2, "both wait")
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        if answers:
            payload = frame(connection, CLOSE)
            assert int.from_bytes(payload[:2], "big") == GOING_AWAY
            close_back(connection, payload)
        assert server.wait_exit() == 0
        took = time.monotonic() - began
        assert poll.answer.status == 200
        assert poll.answer.body["next_batch"]
    return took


# While it starts.


@pytest.mark.parametrize("trace", ["signing.key", "postgres.lock", "postgres.new", "postgres/postmaster.pid"])
def test_the_first_start_can_be_broken_off(tmp_path: Path, trace: str) -> None:
    """SIGTERM while the data is being made: nothing is left running, and the next start begins anew."""
    server = broken_off_at(trace, tmp_path)
    try:
        assert server.printed() == []
        assert database_processes(server) == []
        server.start()
        assert server.call("GET", "/health").status == 200
        server.stop()
        assert "Traceback" not in server.log()
    finally:
        server.close()


def broken_off_at(trace: str, place: Path) -> ServerProcess:
    """One that was told to stop when there was that file. It may be there for a moment: who missed it tries again."""
    for number in range(10):
        server = ServerProcess(place / str(number), bare=True)
        try:
            server.launch()
            there = (server.data_dir / trace).exists
            wait_until(lambda: there() or server.ready_line is not None, trace)  # noqa: B023 (waited for here)
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait_exit() == 0
            if not server.printed():
                return server
        except BaseException:
            server.close()
            raise
    raise AssertionError(f"{trace} was never seen before the server was ready")


@pytest.mark.parametrize(
    "obstacle", [f"SELECT pg_advisory_lock({MIGRATION_LOCK})", "BEGIN; LOCK TABLE stream"]
)
def test_a_start_that_waits_for_the_database_can_be_broken_off(tmp_path: Path, obstacle: str) -> None:
    """Whether it waits for another process's migrations, or later for a table."""
    with (
        postgres(tmp_path / "db") as url,
        serving(tmp_path / "a", database_url=url) as server,
        closing(psycopg2.connect(url)) as connection,
    ):
        server.stop()
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(obstacle)
            server.launch()
            wait_until(lambda: waits_for_a_lock(url), "the server waits")
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait_exit() == 0
            assert server.printed() == []


def waits_for_a_lock(url: str) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
        return row is not None and row[0] > 0


def test_a_stop_does_not_wait_for_a_database_that_is_gone(tmp_path: Path) -> None:
    """What can't be ended in order is left, and the exit is in order nevertheless.

    What ends one after another waits for it together, not each of them anew.
    """
    took = [stopped_without_database(tmp_path / "0")]
    while took[-1] >= TOGETHER and len(took) < ATTEMPTS:
        took.append(stopped_without_database(tmp_path / str(len(took))))
    assert took[-1] < TOGETHER, took


def stopped_without_database(place: Path) -> float:
    """The seconds that the stop took of a server whose database had ended."""
    with postgres(place / "db") as url:
        server = ServerProcess(place / "a", database_url=url)
        server.start()
    try:
        began = time.monotonic()
        server.stop()
        return time.monotonic() - began
    finally:
        server.close()


def test_a_step_that_does_not_heed_being_cancelled_is_left() -> None:
    """What it would do next must not take the time of those that follow; its failure is nobody's any more."""
    clock, reached = Clock(), list[str]()
    later: Deferred[None] = Deferred()

    async def stubborn() -> None:
        with contextlib.suppress(CancelledError):
            await Deferred()
        reached.append("the next part")
        await later

    step = Deferred.fromCoroutine(attempt(clock, "something", stubborn(), 3.0))
    clock.advance(2.9)
    assert (reached, step.called) == ([], False)
    clock.advance(0.1)
    assert (reached, step.called) == (["the next part"], True)
    later.errback(RuntimeError("the database is closed"))
    assert clock.getDelayedCalls() == []


def test_a_step_that_fails_or_ends_is_not_waited_for() -> None:
    clock = Clock()

    async def fails() -> None:
        raise RuntimeError("a defect")

    async def ends() -> None:
        return

    for work in (fails(), ends()):
        assert Deferred.fromCoroutine(attempt(clock, "something", work, 3.0)).called
    assert clock.getDelayedCalls() == []
