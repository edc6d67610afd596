# SPDX-License-Identifier: Apache-2.0
"""An embedded database that died under its server comes back, whatever is in its way, and holds up nothing."""

from __future__ import annotations

import errno
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.serving import ServerProcess, serving
from tests.waiting import wait_until

REVIVED = "the embedded database had ended; it was started again"
OBSTACLE = "the embedded database has ended and cannot be started now"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_keeps_it_from_starting_may_pass(tmp_path: Path, workers: int) -> None:
    """The server goes on without it, says so once, and has it back as soon as it can be started.

    Its log stands for whatever the machine may lack for a while: without it there is no process either.
    """
    with serving(tmp_path, workers=workers) as server:
        alice = server.register("alice")
        log = server.data_dir / "postgres.log"
        log.rename(server.data_dir / "postgres.log.before")
        log.mkdir()
        server.kill_database()
        wait_until(lambda: OBSTACLE in server.log(), OBSTACLE)
        assert server.call("GET", "/_matrix/client/versions").status == 200
        log.rmdir()
        wait_until(lambda: REVIVED in server.log(), REVIVED)
        answer = server.call("GET", "/_matrix/client/v3/account/whoami", token=alice.access_token)
        assert answer.status == 200
        assert server.log().count(OBSTACLE) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_does_not_wait_for_it(tmp_path: Path, workers: int) -> None:
    """While it recovers, which may take minutes, SIGTERM is heard as at any other time."""
    with serving(tmp_path, workers=workers) as server:
        reviving = stopped_while_it_starts(server)
        try:
            os.kill(server.pid, signal.SIGTERM)
            wait_until(lambda: refuses(server), "the server has begun to stop")
        finally:
            os.kill(reviving, signal.SIGCONT)
        assert server.wait_exit() == 0


def test_one_that_is_killed_while_it_recovers_is_followed_by_another(tmp_path: Path) -> None:
    """As by a machine that is short of memory: that says nothing of the database, and the server goes on."""
    with serving(tmp_path) as server:
        alice = server.register("alice")
        reviving = stopped_while_it_starts(server)
        revived = server.log().count(REVIVED)
        os.kill(reviving, signal.SIGKILL)
        wait_until(lambda: server.log().count(REVIVED) > revived, REVIVED)
        assert f"{OBSTACLE}: it was killed before it answered" in server.log()
        answer = server.call("GET", "/_matrix/client/v3/account/whoami", token=alice.access_token)
        assert answer.status == 200


def refuses(server: ServerProcess) -> bool:
    """Whether nobody listens. One who does without ever accepting has room for some, and lets others wait."""
    with socket.socket() as probe:
        probe.settimeout(5.0)
        return probe.connect_ex(("127.0.0.1", server.port)) == errno.ECONNREFUSED


def stopped_while_it_starts(server: ServerProcess) -> int:
    """The database has died, and the one that follows it stands still before it serves; its process id.

    One that was ready before it could be stopped dies, too.
    """
    while True:
        before, revived = postmaster(server)[:1], server.log().count(REVIVED)
        server.kill_database()
        while (lines := postmaster(server))[:1] in ([], before):
            assert server.running, server.log()[-8000:]
        pid = int(lines[0])
        os.kill(pid, signal.SIGSTOP)
        if postmaster(server)[7:] != ["ready"]:
            return pid
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: server.log().count(REVIVED) > revived, REVIVED)  # noqa: B023


def postmaster(server: ServerProcess) -> list[str]:
    """What the database's main process tells of itself, its process id first; nothing if there is none."""
    with suppress(FileNotFoundError):
        text = (server.data_dir / "postgres" / "postmaster.pid").read_text()
        return [line.strip() for line in text.splitlines()] if text.endswith("\n") else []
    return []
