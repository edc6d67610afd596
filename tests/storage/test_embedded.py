# SPDX-License-Identifier: Apache-2.0
"""The private server: first start, restarts, crashes of either side, a second owner, awkward directories."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
import pytest

from storage import embedded
from storage.embedded import DataDirectoryInUse, EmbeddedPostgres
from storage.embedded_process import EmbeddedPostgresError
from tests.waiting import wait_until


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Not pytest's tmp_path: as root, the server's user must be able to reach it."""
    with TemporaryDirectory(prefix="lares-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "data"


def ask(dsn: str, statement: str) -> Any:
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return None if row is None else row[0]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_ended(pid: int) -> None:
    deadline = time.monotonic() + 180
    while not ended(pid):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_start_stop_and_start_again(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    dsn = server.start()
    for name, expected in {
        "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "data_checksums": "on",
        "server_encoding": "UTF8", "listen_addresses": "", "unix_socket_permissions": "0700",
    }.items():  # fmt: skip
        assert ask(dsn, f"SHOW {name}") == expected
    assert ask(dsn, "SELECT datcollate FROM pg_database WHERE datname = current_database()") == "C"
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700
    ask(dsn, "CREATE TABLE t AS SELECT 42 AS a")
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert ended(pid)
    assert server.start() == dsn
    assert ask(dsn, "SELECT a FROM t") == 42
    server.stop()


def test_a_second_server_on_the_directory_is_refused(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    dsn = server.start()
    with pytest.raises(DataDirectoryInUse, match=str(os.getpid())):
        EmbeddedPostgres(data_dir).start()
    assert ask(dsn, "SELECT 1") == 1
    server.stop()
    other = EmbeddedPostgres(data_dir)
    other.start()
    other.stop()


def test_a_killed_server_starts_again(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    dsn = server.start()
    ask(dsn, "CREATE TABLE t AS SELECT 42 AS a")
    assert server.pid is not None
    with closing(psycopg2.connect(dsn)):
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        assert (data_dir / "postgres" / "postmaster.pid").exists()
        assert server.start() == dsn
    assert ask(dsn, "SELECT a FROM t") == 42
    server.stop()


PARENT = """
import sys, time
from pathlib import Path
from storage.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
dsn = server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("orphan", ["has ended", "is ending"])
def test_a_killed_parent_leaves_nothing_in_the_way(data_dir: Path, orphan: str) -> None:
    """The orphan ends by itself, and the next start waits for one that is not through with that."""
    with subprocess.Popen([sys.executable, "-c", PARENT, str(data_dir)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if orphan == "is ending":
            os.kill(pid, signal.SIGSTOP)
        parent.kill()
        parent.wait()
    if orphan == "has ended":
        wait_until_ended(pid)
    else:
        assert not ended(pid)
        os.kill(pid, signal.SIGCONT)
    server = EmbeddedPostgres(data_dir)
    dsn = server.start()
    assert server.pid != pid
    assert ended(pid)
    assert ask(dsn, "SELECT 1") == 1
    server.stop()


@pytest.mark.parametrize("deep", [False, True])
def test_a_server_that_died_is_revived_in_place(data_dir: Path, deep: bool) -> None:
    """The same connection string answers again, with what was committed."""
    server = EmbeddedPostgres(data_dir / ("d" * 120) if deep else data_dir)
    try:
        dsn = server.start()
        ask(dsn, "CREATE TABLE kept AS SELECT 42 AS n")
        assert not server.revive()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until_ended(server.pid)
        wait_until(server.revive, "it answers")
        assert ask(dsn, "SELECT n FROM kept") == 42
        assert not server.revive()
    finally:
        server.stop()


def test_a_server_that_recovers_is_not_waited_for(data_dir: Path) -> None:
    """A look at one that is starting again is over at once, however long that takes; in the end it is there."""
    server = EmbeddedPostgres(data_dir)
    try:
        dsn = server.start()
        kill(server)
        held = hold(data_dir, "postmaster.opts")
        begin_to_revive(server)
        assert not any(server.revive() for _ in range(20))
        assert held.read_text()
        wait_until(server.revive, "it answers")
        assert ask(dsn, "SELECT 1") == 1
    finally:
        server.stop()


@pytest.mark.parametrize("held_by", ["postmaster.opts", "backup_label"])
def test_a_server_that_is_killed_while_it_recovers_is_started_again(data_dir: Path, held_by: str) -> None:
    """A machine that is short of memory ends what it likes: the server itself, or the process of it that recovers.

    The first file is written by the server before it has other processes, the other one is read by that one.
    """
    server = EmbeddedPostgres(data_dir)
    try:
        dsn = server.start()
        kill(server)
        held = hold(data_dir, held_by)
        begin_to_revive(server)
        assert server.pid is not None
        if held_by == "backup_label":
            wait_until(lambda: bool(recovering(server)), "it recovers")
            os.kill(recovering(server)[0], signal.SIGKILL)
            wait_until_ended(server.pid)
        else:
            kill(server)
        with pytest.raises(subprocess.SubprocessError, match="it was killed"):
            server.revive()
        held.unlink()
        wait_until(server.revive, "it answers")
        assert ask(dsn, "SELECT 1") == 1
    finally:
        server.stop()


def test_what_a_server_that_died_left_running_is_not_waited_for(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a while to end by itself, and is killed then; until it is gone no other is started, and nobody waits."""
    server = EmbeddedPostgres(data_dir)
    try:
        dsn = server.start()
        died = server.pid
        with closing(psycopg2.connect(dsn)) as connection:
            backend = connection.info.backend_pid
            os.kill(backend, signal.SIGSTOP)
            kill(server)
            monkeypatch.setattr(embedded, "_ORPHANS_TIMEOUT", 3600.0)
            assert not server.revive()
            assert not ended(backend)
            assert server.pid == died
            monkeypatch.setattr(server, "_orphans_since", time.monotonic() - 2 * 3600.0)
            with pytest.raises(subprocess.SubprocessError, match=f"do not end: .*{backend}"):
                server.revive()
            assert server.pid == died
            wait_until_ended(backend)
        wait_until(server.revive, "it answers")
        assert ask(dsn, "SELECT 1") == 1
    finally:
        server.stop()


def test_a_revival_looks_up_no_user(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a free descriptor there seems to be none, and that passes."""
    server = EmbeddedPostgres(data_dir)
    try:
        server.start()
        kill(server)

        def nobody(key: object) -> None:
            raise KeyError(key)

        monkeypatch.setattr("pwd.getpwuid", nobody)
        monkeypatch.setattr("pwd.getpwnam", nobody)
        wait_until(server.revive, "it answers")
    finally:
        server.stop()


def hold(data_dir: Path, name: str) -> Path:
    """A server that opens this file of its directory stands still until it is opened at the other end, too."""
    cluster = data_dir / "postgres"
    path, owner = cluster / name, cluster.stat()
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    os.chown(path, owner.st_uid, owner.st_gid)
    return path


def recovering(server: EmbeddedPostgres) -> list[int]:
    """The process of the server that replays its log."""
    found = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return [int(pid) for pid in found if title(pid).startswith("postgres: startup")]


def title(pid: str) -> str:
    """What a process calls itself; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_server_may_die_again_before_anybody_looked(data_dir: Path) -> None:
    """It served in between, so that nothing keeps it from starting."""
    server = EmbeddedPostgres(data_dir)
    try:
        dsn = server.start()
        kill(server)
        begin_to_revive(server)
        wait_until(lambda: answers(dsn), "it answers")
        kill(server)
        assert server.revive()
        assert not server.revive()
        wait_until(server.revive, "it answers again")
        assert ask(dsn, "SELECT 1") == 1
    finally:
        server.stop()


def kill(server: EmbeddedPostgres) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until_ended(server.pid)


def begin_to_revive(server: EmbeddedPostgres) -> None:
    """Look at one that died until what it left running has ended, and another is started."""
    died = server.pid
    wait_until(lambda: not server.revive() and server.pid != died, "another is started")


def answers(dsn: str) -> bool:
    try:
        return bool(ask(dsn, "SELECT 1") == 1)
    except psycopg2.OperationalError:
        return False


def test_a_server_that_does_not_come_back_says_why(data_dir: Path) -> None:
    """What keeps Postgres from starting at all is no better at the next look."""
    server = EmbeddedPostgres(data_dir)
    try:
        server.start()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until_ended(server.pid)
        (data_dir / "postgres" / "global" / "pg_control").unlink()
        with pytest.raises(EmbeddedPostgresError, match="pg_control"):
            wait_until(server.revive, "it does not start")
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["postmaster.pid", ".s.PGSQL.5432.lock"])
def test_a_pid_file_naming_another_process_is_no_obstacle(data_dir: Path, name: str) -> None:
    server = EmbeddedPostgres(data_dir)
    server.start()
    pid_file = data_dir / "postgres" / name
    lines = pid_file.read_text().splitlines()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        assert ask(server.start(), "SELECT 1") == 1
        server.stop()
        assert bystander.poll() is None
        bystander.communicate(b"\n")
    assert bystander.returncode == 0


def test_a_deep_directory_gets_a_short_socket_path(data_dir: Path) -> None:
    deep = data_dir.joinpath(*["deep" * 10] * 4)
    deep.mkdir(parents=True)
    server = EmbeddedPostgres(deep)
    dsn = server.start()
    sockets = ask(dsn, "SHOW unix_socket_directories")
    assert stat.S_IMODE(os.stat(sockets).st_mode) == 0o700
    assert not sockets.startswith(str(deep))
    server.stop()
    assert not Path(sockets).exists()


def test_a_deep_directory_cleans_up_after_a_crash(data_dir: Path) -> None:
    deep = data_dir.joinpath(*["deep" * 10] * 4)
    with subprocess.Popen([sys.executable, "-c", PARENT, str(deep)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        sockets = (deep / "postgres" / "postmaster.pid").read_text().splitlines()[4]
        os.kill(pid, signal.SIGKILL)
        parent.kill()
        parent.wait()
    assert Path(sockets).exists()
    server = EmbeddedPostgres(deep)
    server.start()
    assert not Path(sockets).exists()
    server.stop()


def test_a_directory_only_its_owner_may_pass(data_dir: Path) -> None:
    closed = data_dir / "closed"
    closed.mkdir(parents=True, mode=0o700)
    server = EmbeddedPostgres(closed / "data")
    assert ask(server.start(), "SELECT 1") == 1
    server.stop()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def _linked(source: str, target: str) -> None:
    """The same file, where both lie on one file system; a copy elsewhere."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def test_programs_and_data_where_only_their_owner_may_pass(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout in a folder of root's own: Postgres runs as another, and asks whether it may run its programs."""
    closed = data_dir / "closed"
    closed.mkdir(parents=True, mode=0o700)
    package = embedded._binaries().parent.parent
    for each in package.parent.glob(f"{package.name}*"):  # the libraries lie beside it
        if each.suffix in {"", ".libs"}:
            shutil.copytree(each, closed / each.name, symlinks=True, copy_function=_linked)
    programs = closed / embedded._binaries().relative_to(package.parent)
    monkeypatch.setattr(embedded, "_binaries", lambda: programs)
    server = EmbeddedPostgres(closed / "data")
    assert ask(server.start(), "SELECT 1") == 1
    server.stop()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_an_interrupted_initialisation_is_started_over(data_dir: Path) -> None:
    fresh = data_dir / "postgres.new"
    fresh.mkdir(parents=True)
    (fresh / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(data_dir)
    assert ask(server.start(), "SELECT 1") == 1
    server.stop()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("PG_VERSION", "16\n", "written by Postgres 16"), ("letters", "dear", "neither empty nor a database")],
)
def test_directories_that_are_not_ours(data_dir: Path, file: str, content: str, message: str) -> None:
    cluster = data_dir / "postgres"
    cluster.mkdir(parents=True)
    (cluster / file).write_text(content)
    with pytest.raises(EmbeddedPostgresError, match=message):
        EmbeddedPostgres(data_dir).start()
    assert (cluster / file).read_text() == content


def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        EmbeddedPostgres(data_dir, settings={"shared_buffers": "nonsense"}).start()
    server = EmbeddedPostgres(data_dir)
    assert ask(server.start(), "SELECT 1") == 1
    server.stop()


def test_no_variable_of_ours_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    environment = embedded._environment()
    assert "PGDATA" not in environment
    assert environment["LC_ALL"] == "C"
