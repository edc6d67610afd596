# SPDX-License-Identifier: Apache-2.0
"""Several workers under one parent: one server to everybody outside, whatever becomes of a process within."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
import yaml

from homeserver.app.server import LINGER
from homeserver.app.workers.figures import merged
from tests.app.looking import database_processes, figures, figures_by_worker, resident_mib
from tests.app.websockets import FEW, GOING_AWAY, Follower
from tests.serving import CHECKOUT, ServerProcess, as_url, free_port, serving
from tests.waiting import wait_until

WORKERS = 3
CONNECTIONS = 200
PAUSE = 0.02
"""Seconds between requests of a client, without which they would leave the processes that start no time."""
REPLACED = "all workers have been replaced"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One for the tests that leave it as they found it: three workers, registration open."""
    with serving(tmp_path_factory.mktemp("workers"), workers=WORKERS, bare=True) as running:
        yield running
    assert "Traceback (most recent call last)" not in running.log(), running.log()[-8000:]


def settle(server: ServerProcess) -> None:
    """Until as many workers serve as should, and no other process of theirs is left."""
    wait_until(
        lambda: figures(server)["lares_workers"] == WORKERS and len(server.worker_pids()) == WORKERS,
        "all workers serve",
    )


def hang_up(server: ServerProcess, expected: str) -> None:
    """SIGHUP, and wait until the log says what is expected once more."""
    before = server.log().count(expected)
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: server.log().count(expected) > before, expected, timeout=600.0)


@contextlib.contextmanager
def configured(server: ServerProcess, changes: Mapping[str, Any]) -> Iterator[None]:
    """The configuration's file with other values, until the block ends."""
    written = server.config_path.read_text()
    server.config_path.write_text(yaml.safe_dump({**yaml.safe_load(written), **changes}))
    try:
        yield
    finally:
        server.config_path.write_text(written)


def test_all_that_is_printed_is_printed_once(server: ServerProcess) -> None:
    """What was made, the command, and `ready` for all of them; nothing comes of the others."""
    assert len(server.worker_pids()) == WORKERS
    lines = server.printed()
    assert lines[0].startswith("made the signing key in ")
    assert len([line for line in lines if "register-user" in line]) == 1
    assert lines[-1] == f"ready: localhost on 127.0.0.1:{server.port}"


def test_the_parent_is_small(server: ServerProcess) -> None:
    """It has imported neither Twisted nor anything that serves."""
    assert resident_mib(server.pid) < 45
    script = (
        "import sys, homeserver.cli.serve, homeserver.app.workers.parent; print(*sys.modules, sep=chr(10))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, check=True, text=True
    )
    imported = set(run.stdout.split())
    assert imported.isdisjoint(
        {"twisted", "OpenSSL", "prometheus_client", "homeserver.app.server", "asyncio"}
    )


def test_connections_are_shared_out(server: ServerProcess) -> None:
    """Connections that stay are spread, none of the workers being without its part.

    Who gets no processor while they come leaves them to the others, which does not happen each time.
    """
    settle(server)
    held = [connections_of(server)]
    while min(held[-1].values()) < CONNECTIONS / WORKERS / 3 and len(held) < 5:
        held.append(connections_of(server))
    assert len(held[-1]) == WORKERS
    assert min(held[-1].values()) >= CONNECTIONS / WORKERS / 3, held


def connections_of(server: ServerProcess) -> dict[str, float]:
    """How many connections each worker has of many that are opened at once."""
    name = "lares_worker_connections"
    wait_until(lambda: sum(figures_by_worker(server, name).values()) < WORKERS, "nobody is connected")
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=90.0))
        wait_until(lambda: sum(figures_by_worker(server, name).values()) > CONNECTIONS, "all are accepted")
        return figures_by_worker(server, name)


def test_figures_are_those_of_all(server: ServerProcess) -> None:
    """Whoever is asked; a worker that does not answer is left out, and nothing is known to one of them alone."""

    def told() -> int:
        return len(figures_by_worker(server, "process_open_fds"))

    wait_until(lambda: told() == WORKERS, "none takes longer than others wait for it")
    size = 'lares_storage_bytes{kind="tables",part="events"}'
    wait_until(lambda: len(figures_by_worker(server, size)) == WORKERS, "each has read the sizes")
    stopped = server.worker_pids()[-1]
    os.kill(stopped, signal.SIGSTOP)
    try:
        wait_until(lambda: told() == WORKERS - 1, "the others tell theirs")
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_expositions_are_merged_by_figure() -> None:
    """One description, the samples of all below it, told apart by a label."""
    text = b'# HELP a Of a.\n# TYPE a counter\na{b="c d} 1"} 1.0\n# HELP e Of e.\n# TYPE e gauge\ne 2.0\n'
    assert merged([(0, text), (4, text)]) == (
        b'# HELP a Of a.\n# TYPE a counter\na{worker="0",b="c d} 1"} 1.0\na{worker="4",b="c d} 1"} 1.0\n'
        b'# HELP e Of e.\n# TYPE e gauge\ne{worker="0"} 2.0\ne{worker="4"} 2.0\n'
    )


def test_a_worker_that_dies_is_followed_by_another(server: ServerProcess) -> None:
    """The others answer meanwhile; the figures and the log tell of it."""
    settle(server)
    before = figures(server)["lares_worker_restarts_total"]
    victim = server.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    for _ in range(20):
        assert server.call("GET", "/_matrix/client/versions").status == 200
    said = "a worker died: it ended by SIGKILL; another is started"
    wait_until(lambda: said in server.log(), said)
    settle(server)
    assert victim not in server.worker_pids()
    assert figures(server)["lares_worker_restarts_total"] == before + 1


def test_a_worker_waits_for_the_migrations_of_its_code(tmp_path: Path, database_url: str) -> None:
    """A release was put in place and not taken up: who dies is not followed by code whose tables are not there.

    The other goes on serving, and the log says what is to be done. That the database is behind is played by its
    forgetting the newest migration.
    """
    url = as_url(database_url)
    with (
        serving(tmp_path, database_url=url, workers=2) as server,
        closing(psycopg2.connect(url)) as connection,
    ):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM schema_version WHERE number = (SELECT max(number) FROM schema_version)"
                " RETURNING number, name, oldest_code"
            )
            forgotten = cursor.fetchone()
            serves = "homeserver.app.workers.child serving"
            wait_until(lambda: server.log().count(serves) == 2, "both have said so")
            os.kill(server.worker_pids()[0], signal.SIGKILL)
            said = "a worker died: the database cannot be used: it is at version"
            wait_until(lambda: server.log().count(said) >= 2, said)
            assert (
                "reload the server or start it anew, which applies what is missing; another is"
                in server.log()
            )
            assert server.log().count(serves) == 2
            assert server.call("GET", "/_matrix/client/versions").status == 200
            cursor.execute(
                "INSERT INTO schema_version (number, name, oldest_code) VALUES (%s, %s, %s)", forgotten
            )
        wait_until(lambda: figures(server)["lares_workers"] == 2, "both serve")


class Load:
    """Clients that ask again and again, each on a connection that it keeps for as long as it may, and a long-poll."""

    def __init__(self, server: ServerProcess, clients: int) -> None:
        self.errors: list[str] = []
        self.answered = 0
        self.closes = 0
        self._server = server
        self._ended = threading.Event()
        self._lock = threading.Lock()
        alice = server.register(f"load{time.monotonic_ns()}")
        self._token = {"Authorization": f"Bearer {alice.access_token}"}
        since = server.call("GET", "/_matrix/client/v3/sync", token=alice.access_token).body["next_batch"]
        paths = ["/_matrix/client/v3/account/whoami"] * clients + [
            f"/_matrix/client/v3/sync?since={since}&timeout=300"
        ]
        self._threads = [threading.Thread(target=self._ask, args=(path,)) for path in paths]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=180.0)
        latest = time.monotonic()
        while not self._ended.is_set():
            if time.monotonic() - latest > LINGER / 2:  # nobody keeps it open for who stood still for so long
                connection.close()
            try:
                connection.request("GET", path, headers=self._token)
                answer = connection.getresponse()
                answer.read()
                latest = time.monotonic()
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(repr(error))
                connection.close()
                latest = time.monotonic()
                continue
            with self._lock:
                self.answered += 1
                self.closes += answer.will_close
            if answer.status != 200:
                self.errors.append(f"{path}: {answer.status}")
            self._ended.wait(PAUSE)
        connection.close()


def test_a_rolling_restart_is_seen_by_no_client(server: ServerProcess) -> None:
    """Every worker is another, with the configuration of now; no request failed, no connection was refused.

    A listener that is new is opened, one that is gone is closed, the one that stays serves all the time.
    """
    settle(server)
    before = set(server.worker_pids())
    port, listeners = free_port(), yaml.safe_load(server.config_path.read_text())["listeners"]
    changes = {
        "registration": {"enabled": False},
        "listeners": [*listeners, {"bind": "127.0.0.1", "port": port, "serves": ["client"]}],
    }
    with configured(server, changes), Load(server, 4) as load:
        hang_up(server, REPLACED)
        assert answers(port)
        enough = load.answered + 100
        wait_until(lambda: load.answered >= enough, "clients go on")
    assert load.errors == []
    assert load.closes >= WORKERS
    settle(server)
    assert before.isdisjoint(server.worker_pids())
    refused = server.call("POST", "/_matrix/client/v3/register", {"username": "x", "password": "y"})
    assert refused.status == 403, refused.body
    hang_up(server, REPLACED)
    settle(server)
    assert server.call("POST", "/_matrix/client/v3/register", {}).status == 401
    assert not answers(port)


def test_websockets_go_on_at_other_workers(server: ServerProcess) -> None:
    """At a rolling restart each is told that its server goes away, and hears at the next one all that was said."""
    settle(server)
    alice = server.register("alice")
    room = server.call("POST", "/_matrix/client/v3/createRoom", {}, token=alice.access_token).body["room_id"]
    unseen = {"set_presence": "offline"}
    first = server.call("GET", "/_matrix/client/v3/sync", token=alice.access_token, query=unseen)
    since, last = first.body["next_batch"], "that is all"
    followers = [Follower(server, alice.access_token, since, last=last) for _ in range(2 * WORKERS)]
    said: list[str] = []

    def say(text: str) -> None:
        path = f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.message/{len(said)}"
        content = {"msgtype": "m.text", "body": text}
        answer = server.call("PUT", path, content, token=alice.access_token)
        assert answer.status == 200, answer
        said.append(text)

    say("hello")
    for follower in followers:
        assert follower.following.wait(180.0), follower.error
    replaced = server.log().count(REPLACED)
    os.kill(server.pid, signal.SIGHUP)

    def all_replaced() -> bool:
        if len(said) < FEW:
            say(f"message {len(said)}")
        return server.log().count(REPLACED) > replaced

    wait_until(all_replaced, REPLACED, timeout=600.0)
    say(last)
    for follower in followers:
        follower.join(180.0)
        assert follower.error is None, follower.error
        assert follower.heard == said
        assert set(follower.closed_with) == {GOING_AWAY}


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except ConnectionError:
        return False
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"wokers": 1}, "wokers: there is no such key; did you mean workers?"),
        ({"server_name": "elsewhere.example"}, "server_name: cannot change while the server runs"),
        ({"workers": 1}, "workers: 1 is a server without a parent"),
        (
            {"listeners": [{"tls": {"certificate": "config.yaml", "private_key": "config.yaml"}}]},
            "cannot use",
        ),
    ],
)
def test_what_cannot_be_used_changes_nothing(
    server: ServerProcess, changes: Mapping[str, Any], sentence: str
) -> None:
    """The log names the key; the workers are the ones from before."""
    settle(server)
    before, said = server.worker_pids(), len(server.log())
    with configured(server, changes):
        hang_up(server, "SIGHUP: the configuration stays as it was: ")
    wait_until(lambda: sentence in server.log()[said:], sentence)
    assert server.worker_pids() == before
    assert server.call("GET", "/health").status == 200


def test_a_new_worker_that_cannot_start_changes_nothing(server: ServerProcess) -> None:
    """What only a start finds out, here that a name is taken, ends with the first worker that tries it."""
    settle(server)
    server.register("taken")
    before = server.worker_pids()
    with configured(server, {"calls": {"echo_user": "taken"}}):
        hang_up(
            server, "SIGHUP: the workers stay as they are, since a new one could not start: calls.echo_user"
        )
    settle(server)
    assert server.worker_pids() == before


def test_a_killed_parent_takes_everything_along(tmp_path: Path) -> None:
    """Workers end when their parent is gone, however that ended; the database does, too; the next start finds all."""
    with serving(tmp_path, workers=2) as server:
        alice = server.register("alice")
        workers = server.worker_pids()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not answers(server.port), "nobody listens")
        wait_until(lambda: not any(map(lives, workers)), "the workers have ended")
        wait_until(lambda: database_processes(server) == [], "the database has ended")
        assert server.wait_exit() == -signal.SIGKILL
        server.start()
        whoami = server.call("GET", "/_matrix/client/v3/account/whoami", token=alice.access_token)
        assert whoami.status == 200
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait_exit() == 0
        assert database_processes(server) == []


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_certificate_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """At the first start: a sentence, exit code 1, and no folder."""
    (tmp_path / "a.pem").write_text("no certificate")
    tls = {"certificate": "a.pem", "private_key": "a.pem"}
    listeners = [{"bind": "127.0.0.1", "port": free_port(), "tls": tls}]
    server = ServerProcess(tmp_path, workers=2, settings={"listeners": listeners}, bare=True)
    try:
        server.launch()
        assert server.wait_exit() == 1
        sentence = server.log().splitlines()[-1]
        assert sentence.startswith("lares: cannot use "), sentence
        assert server.printed() == []
        assert not server.data_dir.exists()
    finally:
        server.close()


def test_what_a_worker_refuses_the_command_refuses(tmp_path: Path) -> None:
    """At the first start: its sentence, exit code 1, and nothing is left running."""
    key = {"key_id": "ed25519:a_1", "key": "l8Hft5qXKn1vfHrg3p4+W8gELQVo8N13JkluMfmn2sQ", "expired_ts": 1}
    server = ServerProcess(tmp_path, workers=2, settings={"federation": {"old_keys": [key]}})
    server.data_dir.mkdir()
    (server.data_dir / "signing.key").write_text(f"ed25519 a_1 {'A' * 42}E\n")
    try:
        server.launch()
        assert server.wait_exit() == 1
        sentence = server.log().splitlines()[-1]
        assert sentence.startswith("lares: the keys of federation.old_keys cannot be used"), sentence
        assert server.printed() == []
        assert database_processes(server) == []
    finally:
        server.close()


def test_a_start_can_be_broken_off(tmp_path: Path) -> None:
    """SIGTERM while the workers start: they end, and the exit code is that of a clean stop."""
    for number in range(10):  # who was too late to break it off tries again
        server = ServerProcess(tmp_path / str(number), workers=2)
        try:
            server.launch()
            wait_until(
                lambda: len(server.worker_pids()) == 2 or server.ready_line is not None,  # noqa: B023
                "workers start",
            )
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait_exit() == 0
            assert database_processes(server) == []
            assert "Traceback" not in server.log()
            if not server.printed():
                return
        finally:
            server.close()
    raise AssertionError("it was always ready before")


def test_one_process_says_why_it_does_not_reload(tmp_path: Path) -> None:
    """With `workers: 1` there is nobody to take over; SIGHUP is answered by a sentence, not by the end."""
    with serving(tmp_path, workers=1) as server:
        hang_up(server, "the configuration was not read again")
        assert server.call("GET", "/health").status == 200
        assert server.worker_pids() == []
