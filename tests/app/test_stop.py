# SPDX-License-Identifier: Apache-2.0
"""Stopping: whatever the moment, requests are answered, nothing is left running, and the exit code is 0."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.app.looking import database_processes, figures
from tests.app.websockets import CLOSE, GOING_AWAY, close_back, frame, websocket
from tests.serving import Account, Answer, ServerProcess, postgres, serving
from tests.waiting import wait_until

SIGNALS = [signal.SIGTERM, signal.SIGINT]
MIGRATION_LOCK = 0x6C61726573
LONG_MS = "120000"


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
        self.join(10.0)
        assert self._answer is not None, "the request got no answer"
        return self._answer


def slow_log_in(server: ServerProcess, account: Account) -> Call:
    """A request that takes seconds, since a hash of the password does; returns once it is being answered."""
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": account.user_id},
        "password": account.password,
    }
    call = Call(server, "POST", "/_matrix/client/v3/login", body=body)
    wait_until(lambda: figures(server)["lares_http_in_flight"] == 2, "the log-in is in flight")
    return call


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


@pytest.mark.parametrize("answers", [True, False], ids=["polite", "asleep"])
def test_those_who_wait_return_at_once(tmp_path: Path, answers: bool) -> None:
    """A long-poll gets its empty answer, a WebSocket its close frame; one that sleeps does not hold up the stop."""
    with serving(tmp_path) as server:
        alice = server.register("alice")
        unseen = {"set_presence": "offline"}  # else to be online is news, and one of the waits is over
        first = server.call("GET", "/_matrix/client/v3/sync", token=alice.access_token, query=unseen)
        since = first.body["next_batch"]
        query = {"since": since, "timeout": LONG_MS, **unseen}
        poll = Call(server, "GET", "/_matrix/client/v3/sync", token=alice.access_token, query=query)
        with websocket(server, alice.access_token, since) as connection:
            wait_until(lambda: figures(server)["lares_stream_listeners"] == 2, "both wait")
            os.kill(server.pid, signal.SIGTERM)
            if answers:
                payload = frame(connection, CLOSE)
                assert int.from_bytes(payload[:2], "big") == GOING_AWAY
                close_back(connection, payload)
            assert server.wait_exit(timeout=8.0) == 0
            assert poll.answer.status == 200
            assert poll.answer.body["next_batch"]


# While it starts.


@pytest.mark.parametrize("trace", ["signing.key", "postgres.lock", "postgres.new", "postgres/postmaster.pid"])
def test_the_first_start_can_be_broken_off(tmp_path: Path, trace: str) -> None:
    """SIGTERM while the data is being made: nothing is left running, and the next start begins anew."""
    server = ServerProcess(tmp_path, bare=True)
    try:
        server.launch()
        wait_until((server.data_dir / trace).exists, trace)
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait_exit() == 0
        assert server.printed() == []
        assert database_processes(server) == []
        server.start()
        assert server.call("GET", "/health").status == 200
        server.stop()
        assert "Traceback" not in server.log()
    finally:
        server.close()


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
    """What can't be ended in order is left, and the exit is in order nevertheless."""
    with postgres(tmp_path / "db") as url:
        server = ServerProcess(tmp_path / "a", database_url=url)
        server.start()
    try:
        server.stop(timeout=40.0)
    finally:
        server.close()
