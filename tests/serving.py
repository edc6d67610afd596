# SPDX-License-Identifier: Apache-2.0
"""A real server process for tests: `python -m homeserver.cli serve` on a free loopback port.

Owns the configuration file, the process from start to clean exit, its captured logs, and a few calls over
plain HTTP. It knows nothing of the server's insides: a test sees what an operator and a client see.

    with serving(tmp_path) as server:                       # embedded Postgres under tmp_path
        alice = server.register("alice")
        answer = server.call("GET", "/_matrix/client/v3/account/whoami", token=alice.access_token)
        assert answer.body["user_id"] == alice.user_id
        server.kill()                                       # SIGKILL, as a power cut would
        server.start()                                      # same data, same port

Two processes on one database (neither may be the embedded one, which belongs to a single instance):

    with postgres(tmp_path / "db") as url, serving(tmp_path / "a", database_url=url) as first:
        with first.beside(tmp_path / "b") as second: ...
"""

import atexit
import contextlib
import functools
import hashlib
import hmac
import http.client
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import yaml
from psycopg2.extensions import parse_dsn

from storage.embedded import EmbeddedPostgres

CHECKOUT = Path(__file__).resolve().parent.parent
WORKERS_VARIABLE = "LARES_TEST_WORKERS"
"""Says how many processes a server has where a test does not: `pytest --workers 3` sets it."""
SHARED_SECRET = "a secret shared by the tests and their servers"
PORTS = range(15_000, 32_000)
PATIENCE = 180.0
"""Seconds that a process gets to start or to end, on a machine with much else to do. It says nothing of how long it may
take: that is for those tests to say that promise it."""
_LOG_TAIL = 12_000

_running: "set[ServerProcess]" = set()


class ServerFailure(AssertionError):
    """The process did not do what its contract says: its message ends with the last of its standard error."""


@dataclass(frozen=True, slots=True)
class Account:
    """A registered user with one logged-in device."""

    user_id: str
    password: str
    access_token: str
    device_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The decoded JSON body, or `None` where the content type is another."""
        if "json" not in self.headers.get("content-type", ""):
            return None
        return json.loads(self.raw)


def usual_workers() -> int:
    """How many processes a server has where a test does not say."""
    return int(os.environ.get(WORKERS_VARIABLE, "1"))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listened on a moment ago.

    Below those that the system gives to connections, of which the tests beside this one open many at any moment. Each
    process of a run of the tests has ports of its own, and gives none of them twice: who was given one may listen there
    much later, or again.
    """
    for port in _ports():
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("all ports are taken")


def _ports() -> Iterator[int]:
    """Those of this process that were not given yet, then all of them anew."""
    for _ in range(len(_own_ports())):
        _own_ports().rotate(-1)
        yield _own_ports()[0]


@functools.cache
def _own_ports() -> deque[int]:
    """The part of `PORTS` that no other process of this run has, beginning anywhere."""
    part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    parts = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = deque(PORTS[part % parts :: parts])
    ports.rotate(secrets.randbelow(len(ports)))
    return ports


@functools.cache
def _initialised() -> Path:
    """A database directory as a first start makes it, for copying: that takes a tenth of the time."""
    directory = Path(tempfile.mkdtemp(prefix="lares-cluster-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    directory.chmod(0o755)
    server = EmbeddedPostgres(directory)
    server.start()
    server.stop()
    return directory / "postgres"


def _initialise(data_dir: Path) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", _initialised(), data_dir / "postgres"], check=True)


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Run an empty Postgres of the tests' own under `directory`; yields the URL of its database."""
    _initialise(directory)
    server = EmbeddedPostgres(directory)
    try:
        yield as_url(server.start())
    finally:
        server.stop()


def as_url(dsn: str) -> str:
    """A connection string of keys and values as `database.url` has it."""
    parts = parse_dsn(dsn)
    query = urlencode({"host": parts["host"], "port": parts["port"]})
    return f"postgresql://{parts['user']}@/{parts['dbname']}?{query}"


def configuration(
    directory: Path, *, port: int, server_name: str, database_url: str | None, workers: int
) -> dict[str, Any]:
    """The configuration tests run with: open registration, cheap password hashes, no rate limits."""
    return {
        "server_name": server_name,
        "public_baseurl": f"http://127.0.0.1:{port}/",
        "data_dir": str(directory / "data"),
        "database": {"url": database_url},
        "workers": workers,
        "listeners": [
            {
                "bind": "127.0.0.1",
                "port": port,
                "serves": ["client", "federation", "media", "admin", "metrics"],
            }
        ],
        "registration": {
            "enabled": True,
            "requires_token": False,
            "shared_secret": SHARED_SECRET,
            "allow_guests": True,
        },
        "passwords": {"argon2_time_cost": 1, "argon2_memory": "1MiB"},
        "rate_limits": {"enabled": False},
    }


def workers_of(pid: int) -> list[int]:
    """Process ids of the workers that a process has as their parent."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
                words = (process / "cmdline").read_bytes().split(b"\0")
                if int(parent) == pid and state != "Z" and b"homeserver.app.workers.child" in words:
                    found.append(int(process.name))
    return sorted(found)


class ServerProcess:
    """One instance of the server with its own directory; may be started again after `stop` or `kill`.

    `directory` holds `config.yaml`, `data/` and `stderr.log` (appended to by every start).
    `workers` above 1: the process that is started is a parent, and those who serve are `worker_pids`.
    `bare`: the first start finds nothing; else it finds an initialised, empty database directory.
    `settings` is merged over `configuration(...)`: mappings key by key, anything else replaces.
    """

    def __init__(
        self,
        directory: Path,
        *,
        database_url: str | None = None,
        server_name: str = "localhost",
        workers: int | None = None,
        settings: Mapping[str, Any] | None = None,
        bare: bool = False,
    ) -> None:
        """Without `workers` there are as many as the run of the tests says."""
        self.directory = directory
        self.server_name = server_name
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.config_path = directory / "config.yaml"
        self.stderr_path = directory / "stderr.log"
        self.data_dir = directory / "data"
        self.database_url = database_url
        self.ready_line: str | None = None
        self._workers = usual_workers() if workers is None else workers
        self.settings = dict(settings or {})
        self._bare = bare
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._first_lines: list[str] = []
        self._ready = threading.Event()

    # -- life ------------------------------------------------------------------------------------------------

    def start(self, *, timeout: float = PATIENCE) -> None:
        """Start the process and return once it has printed its `ready:` line (within `timeout` seconds)."""
        assert self._process is None, "already running"
        self.launch()
        self.wait_ready(timeout=timeout)

    def launch(self) -> None:
        """Start the process without waiting: for tests of refusals and of deaths during start-up."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(yaml.safe_dump(self._configuration(), sort_keys=False))
        if self.database_url is None and not self._bare and not (self.data_dir / "postgres").exists():
            _initialise(self.data_dir)
        self._ready.clear()
        self.ready_line = None
        self._first_lines = []
        with self.stderr_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "homeserver.cli", "serve", "--config", str(self.config_path)],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        _running.add(self)

    def wait_ready(self, *, timeout: float = PATIENCE) -> None:
        """Wait for the `ready:` line of a launched process; its exit before that is a failure."""
        process = self._require()
        deadline = time.monotonic() + timeout
        while not self._ready.wait(0.05):
            if process.poll() is not None:
                raise self._failure(f"exited with {process.returncode} before it was ready")
            if time.monotonic() > deadline:
                self.kill()
                raise self._failure(f"not ready after {timeout:g} s")

    def stop(self, *, timeout: float = PATIENCE) -> None:
        """SIGTERM, and fail unless the process exits with status 0 within `timeout` seconds."""
        process = self._require()
        if process.poll() is None:
            process.terminate()
        status = self.wait_exit(timeout=timeout)
        if status != 0:
            raise self._failure(f"exit status {status} after SIGTERM")

    def wait_exit(self, *, timeout: float = PATIENCE) -> int:
        """Wait for the process to end by itself; returns its exit status (negative: the signal)."""
        process = self._require()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failure(f"still running after {timeout:g} s") from None
        self._reap()
        return process.returncode

    def kill(self) -> None:
        """SIGKILL to the server and its workers at once. The embedded database, its own session, lives on."""
        process = self._require()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._reap()

    def kill_database(self) -> None:
        """SIGKILL to the embedded database's postmaster, whose backends end with it."""
        assert self._signal_database(signal.SIGKILL), f"no embedded database runs under {self.data_dir}"

    def restart(self) -> None:
        """A clean stop, then a start on the same data and port."""
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        """Process id of the running server (of the parent, where there are workers)."""
        return self._require().pid

    def worker_pids(self) -> list[int]:
        """Process ids of the workers there are, those that are starting or leaving included."""
        return workers_of(self.pid)

    def serving_pids(self) -> list[int]:
        """Process ids of those who serve: the workers, or the only process."""
        return self.worker_pids() or [self.pid]

    @property
    def running(self) -> bool:
        """Whether a process was started, not yet ended through this object, and is alive."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End whatever is left without judging it: the process, and an embedded database that outlived it."""
        if self._process is not None:
            self.kill()
        self._signal_database(signal.SIGINT)

    @contextlib.contextmanager
    def beside(self, directory: Path) -> "Iterator[ServerProcess]":
        """Run a second process with the same name, settings, signing key and (external) database."""
        assert self.database_url is not None, "an embedded database belongs to one instance"
        (directory / "data").mkdir(parents=True, exist_ok=True)
        for key in self.data_dir.glob("*.key"):
            shutil.copy2(key, directory / "data")
        with serving(
            directory,
            database_url=self.database_url,
            server_name=self.server_name,
            workers=self._workers,
            settings=self.settings,
        ) as second:
            yield second

    # -- what it says ----------------------------------------------------------------------------------------

    def log(self) -> str:
        """Everything the process wrote to standard error since its first start."""
        return self.stderr_path.read_text(errors="replace") if self.stderr_path.exists() else ""

    def printed(self) -> list[str]:
        """The lines of standard output since the last start."""
        return list(self._first_lines)

    # -- HTTP ------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        query: Mapping[str, str] | None = None,
        timeout: float = 90.0,
    ) -> Answer:
        """One request on a connection of its own. `body`: `bytes` go as they are, other values as JSON."""
        headers = {"Connection": "close"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if payload is not None:
            headers["Content-Type"] = "application/json"
        target = f"{path}?{urlencode(query)}" if query else path
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, target, payload, headers)
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, response.read())
        finally:
            connection.close()

    def register(self, localpart: str, password: str | None = None, *, admin: bool = False) -> Account:
        """Make an account by the shared secret (`POST /_synapse/admin/v1/register`), with one device."""
        password = password or secrets.token_urlsafe(12)
        path = "/_synapse/admin/v1/register"
        nonce = self.call("GET", path).body["nonce"]
        fields = [nonce, localpart, password, "admin" if admin else "notadmin"]
        mac = hmac.new(SHARED_SECRET.encode(), "\0".join(fields).encode(), hashlib.sha1).hexdigest()
        request = {"nonce": nonce, "username": localpart, "password": password, "admin": admin, "mac": mac}
        answer = self.call("POST", path, request)
        if answer.status != 200:
            raise self._failure(f"registering {localpart} answered {answer.status}: {answer.raw!r}")
        made = answer.body
        return Account(made["user_id"], password, made["access_token"], made["device_id"])

    # -- inside ----------------------------------------------------------------------------------------------

    def _configuration(self) -> dict[str, Any]:
        base = configuration(
            self.directory.resolve(),
            port=self.port,
            server_name=self.server_name,
            database_url=self.database_url,
            workers=self._workers,
        )
        return _merged(base, self.settings)

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._first_lines.append(line.rstrip("\n"))
            if line.startswith("ready:"):
                self.ready_line = line.rstrip("\n")
                self._ready.set()

    def _require(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not running"
        return self._process

    def _reap(self) -> None:
        process, reader = self._require(), self._reader
        assert reader is not None and process.stdout is not None
        reader.join(60.0)
        process.stdout.close()
        self._process = None
        _running.discard(self)

    def _signal_database(self, number: signal.Signals) -> int:
        """Send a deadly signal to each postmaster under the data directory; returns how many were ended."""
        ended = 0
        for pid_file in self.data_dir.glob("**/postmaster.pid"):
            # A stale file is common after a crash: only a live process that is Postgres counts.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError, IndexError):
                pid = int(pid_file.read_text().split()[0])
                if "postgres" not in Path(f"/proc/{pid}/comm").read_text():
                    continue
                _end_process(pid, number)
                ended += 1
        return ended

    def _failure(self, what: str) -> ServerFailure:
        return ServerFailure(f"{self.server_name}: {what}\n--- {self.stderr_path}\n{self.log()[-_LOG_TAIL:]}")


@contextlib.contextmanager
def serving(
    directory: Path,
    *,
    database_url: str | None = None,
    server_name: str = "localhost",
    workers: int | None = None,
    settings: Mapping[str, Any] | None = None,
    bare: bool = False,
) -> Iterator[ServerProcess]:
    """Run a server under `directory` until the block ends, then stop it and insist on a clean exit.

    Without `database_url` it uses the embedded Postgres under its own data directory, of which it makes everything
    itself if `bare`. A server the block itself stopped or killed is not judged again. An exception that leaves it
    carries the end of the log.
    """
    server = ServerProcess(
        directory,
        database_url=database_url,
        server_name=server_name,
        workers=workers,
        settings=settings,
        bare=bare,
    )
    try:
        server.start()
        yield server
        if server._process is not None:
            server.stop()
    except ServerFailure:
        raise
    except BaseException as error:
        error.add_note(f"--- {server.stderr_path}\n{server.log()[-_LOG_TAIL:]}")
        raise
    finally:
        server.close()


def logs_of_running_servers() -> list[tuple[str, str]]:
    """(path, end of the log) of every server that runs now: what a report of a failed test should show."""
    return [(str(server.stderr_path), server.log()[-_LOG_TAIL:]) for server in _running]


def _end_process(pid: int, number: signal.Signals) -> None:
    """Signal a process that need not be a child, and wait up to `PATIENCE` seconds for its end."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, number)
        readable, _, _ = select.select([handle], [], [], PATIENCE)
        assert readable, f"process {pid} survived {number.name}"
    finally:
        os.close(handle)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        mine = result.get(key)
        result[key] = _merged(mine, value) if isinstance(mine, dict) and isinstance(value, Mapping) else value
    return result
