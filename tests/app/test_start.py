# SPDX-License-Identifier: Apache-2.0
"""Starting: what is printed, that it is true, and that a crash before makes no difference."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.app.looking import database_processes, resident_mib
from tests.serving import CHECKOUT, ServerProcess, serving

IDLE_BUDGET_MIB = 76


def say(measured: str) -> None:
    """Into the report of the run (`pytest -s` or `-rA`); a machine under load must not fail for it."""
    sys.stdout.write(f"\n{measured}\n")


def type_it(command: str, password: str) -> str:
    """Run a printed command where the server runs, answering its two prompts; what it printed."""
    result = subprocess.run(
        shlex.split(command),
        cwd=CHECKOUT,
        input=f"{password}\n{password}\n",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # no terminal: the prompts read standard input
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def expected_files() -> tuple[str, str]:
    """The soft and the hard limit of open files that a server has by itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return str(min(hard, 65536)), str(hard)


def printed_command(server: ServerProcess) -> str:
    """The one line that is set off by four spaces."""
    (command,) = [line for line in server.printed() if line.startswith("    ")]
    return command.strip()


def log_in(server: ServerProcess, user: str, password: str) -> str:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
    }
    answer = server.call("POST", "/_matrix/client/v3/login", body)
    assert answer.status == 200, answer.body
    token: str = answer.body["access_token"]
    return token


@pytest.mark.parametrize("settings", [{}, {"registration": {"shared_secret": None, "enabled": False}}])
def test_the_first_start_says_what_it_made_and_what_to_type(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    """The command works as printed and makes an administrator; the second start has nothing to say but ready."""
    with serving(tmp_path, settings=settings, bare=True) as server:
        made = server.printed()[0]
        assert made.startswith("made the signing key in ")
        for path in re.findall(r"in (/[^ ,]+)", made):
            assert Path(path).exists()
        assert (
            type_it(printed_command(server), "open sesame") == "registered administrator @alice:localhost\n"
        )
        token = log_in(server, "alice", "open sesame")
        whois = server.call("GET", "/_matrix/client/v3/admin/whois/@alice:localhost", token=token)
        assert whois.status == 200, whois.body

        server.stop()
        begun = time.monotonic()
        server.start()
        limits = Path(f"/proc/{server.pid}/limits").read_text()
        assert re.findall(r"Max open files +(\d+) +(\d+)", limits) == [expected_files()]
        say(f"start-up of an installed server: {time.monotonic() - begun:.2f} s")
        assert server.printed() == [f"ready: localhost on 127.0.0.1:{server.port}"]


def test_the_one_time_token_makes_one_administrator(tmp_path: Path) -> None:
    """For who has no shell but a client: the printed token registers once, though registration is closed."""
    with serving(tmp_path, settings={"registration": {"enabled": False}}) as server:
        (token,) = re.findall(r"one-time token (\S+)", "\n".join(server.printed()))
        path = "/_matrix/client/v3/register"
        asked = server.call("POST", path, {"username": "alice", "password": "open sesame"})
        assert asked.status == 401, asked.body
        body = {
            "username": "alice",
            "password": "open sesame",
            "auth": {
                "type": "m.login.registration_token",
                "token": token,
                "session": asked.body["session"],
            },
        }
        assert server.call("POST", path, body).status == 200
        assert server.call("POST", path, {"username": "bob", "password": "open sesame"}).status == 403


def test_a_port_of_the_systems_choice_is_in_the_command(tmp_path: Path) -> None:
    """With port 0 nobody could read the port off the configuration."""
    listener = {"bind": "127.0.0.1", "port": 0, "serves": ["client", "admin"]}
    with serving(tmp_path, settings={"listeners": [listener]}) as server:
        assert server.ready_line is not None
        port = server.ready_line.rpartition(":")[2]
        command = printed_command(server)
        assert f" --url http://127.0.0.1:{port}/ " in command
        assert "administrator @alice" in type_it(command, "open sesame")


def test_no_command_is_printed_that_could_not_work(tmp_path: Path) -> None:
    """`register-user` talks to a listener that serves admin; without one there is the token."""
    listener = {"bind": "127.0.0.1", "port": 0, "serves": ["client"]}
    with serving(tmp_path, settings={"listeners": [listener]}) as server:
        assert [line for line in server.printed() if "register-user" in line] == []


def test_an_idle_server_is_small_and_its_files_are_private(tmp_path: Path) -> None:
    """Resident memory within the budget; keys, secrets and the database's log readable by one user."""
    with serving(tmp_path, settings={"registration": {"shared_secret": None}}, bare=True) as server:
        resident = resident_mib(server.pid)
        say(f"resident memory at idle: {resident:.0f} MiB")
        assert resident < IDLE_BUDGET_MIB
        for name in ("signing.key", "registration_secret", "postgres.log"):
            assert stat.S_IMODE((server.data_dir / name).stat().st_mode) == 0o600, name


@pytest.mark.parametrize("victims", ["server", "database", "both"])
def test_a_start_after_a_crash_finds_everything(tmp_path: Path, victims: str) -> None:
    """`kill -9` of the server, of its database under it, or of both: the same account logs in afterwards."""
    with serving(tmp_path) as server:
        alice = server.register("alice")
        if victims == "both":
            os.kill(server.pid, signal.SIGSTOP)  # lest it revive its database
        if victims != "server":
            server.kill_database()
        if victims != "database":
            server.kill()
            server.start()
        else:
            server.restart()
        answer = server.call("GET", "/_matrix/client/v3/account/whoami", token=alice.access_token)
        assert (answer.status, answer.body["user_id"]) == (200, alice.user_id)
    assert database_processes(server) == []
