# SPDX-License-Identifier: Apache-2.0
"""A server whose work is counted: its start, and the measuring of what one operation costs it.

Owns the processes (a Postgres of its own, the server of `counted`, the tap between them) and the moments at which
counting begins and ends. What the operations are is `operations`'.

A measurement takes the server from rest to rest: the server and its back ends of Postgres sleep, nothing is owed, and
that twice in a row. So what a server does after it has answered is counted with what caused it.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psycopg2
import yaml
from psycopg2.extensions import parse_dsn

from storage.embedded import EmbeddedPostgres
from tests.costs.tap import Tap, Traffic
from tests.serving import CHECKOUT, free_port

SHARED_SECRET = "benchmark"  # as scripts/benchmarks/world.py has it
SERVER_NAME = "costs.localhost"
_PATIENCE = 120.0
_POSTGRES = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one operation took."""

    calls: int
    """Of Python and C functions, a coroutine's going on included."""
    turns: int
    """Of the reactor."""
    round_trips: int
    """To Postgres and back."""
    statements: int
    commits: int
    """Transactions that wrote."""
    notifications: int
    """Heard from Postgres."""
    database_sent: int
    """Bytes to Postgres."""
    database_received: int
    client_bytes: int
    """To clients, heads of responses included."""
    wal: int
    """Bytes of write-ahead log."""


NAMES = tuple(each.name for each in fields(Cost))


@dataclass(frozen=True, slots=True)
class Phase:
    """One portion of what clients say: all of it is there before the server looks, then all answers are read."""

    say: Callable[[], None]
    hear: Callable[[], int]
    """Waits for all answers; their bytes."""


@dataclass(frozen=True, slots=True)
class _Mark:
    traffic: Traffic
    transaction: int
    wal: int


class Bench:
    """A running server: `port` serves clients, `directory` holds its `data`, others reach its database directly."""

    def __init__(
        self,
        server: subprocess.Popen[str],
        orders: socket.socket,
        tap: Tap,
        *,
        directory: Path,
        database_url: str,
        port: int,
    ) -> None:
        self.port = port
        self.directory = directory
        self.database_url = database_url
        self._server = server
        self._orders = orders
        self._replies = orders.makefile("r")
        self._tap = tap
        self._watching = psycopg2.connect(database_url)
        self._watching.autocommit = True
        self._nothing: dict[int, tuple[int, int]] = {}

    def close(self) -> None:
        """End the server; it must end in order."""
        self._watching.close()
        self._server.terminate()
        assert self._server.wait(_PATIENCE) == 0, "the server did not end in order"
        self._replies.close()

    def measure(self, phases: Sequence[Phase]) -> tuple[Cost, dict[str, int]]:
        """The cost of the phases, one after the other, and how often each function was called."""
        if len(phases) not in self._nothing:
            empty = [self._count([_NOTHING] * len(phases)) for _ in range(5)]
            self._nothing[len(phases)] = (
                min(cost.calls for cost, _ in empty),
                min(cost.turns for cost, _ in empty),
            )
        cost, functions = self._count(phases)
        calls, turns = self._nothing[len(phases)]
        return Cost(
            **{
                **{name: getattr(cost, name) for name in NAMES},
                "calls": cost.calls - calls,
                "turns": cost.turns - turns,
            }
        ), functions

    def unmeasured(self, phases: Sequence[Phase]) -> None:
        """The same without counting, for what prepares."""
        for phase in phases:
            phase.say()
            phase.hear()
        self.rest()

    def rest(self) -> None:
        """Wait until nobody has anything to do."""
        deadline = time.monotonic() + _PATIENCE
        last: object = None
        agreed = 0
        while agreed < 3:
            if time.monotonic() > deadline:
                raise AssertionError("the server does not come to rest")
            now = self._asleep()
            agreed = agreed + 1 if now is not None and now == last else 0
            last = now
            time.sleep(0.002)

    def _asleep(self) -> object:
        """What has happened so far; None while something goes on."""
        pids = [self._server.pid, *self._tap.backends()]
        looks = [_look(pid) for pid in pids]
        if self._tap.busy() or any(state != "S" for state, _ in looks):
            return None
        return (self._tap.traffic(), looks)

    def _count(self, phases: Sequence[Phase]) -> tuple[Cost, dict[str, int]]:
        self.rest()
        before = self._mark()
        heard = 0
        for number, phase in enumerate(phases):
            self._orders.sendall(b"h")
            assert self._replies.read(1) == "h"
            phase.say()
            self._orders.sendall(b"g" if number else b"b")
            heard += phase.hear()
            self.rest()
        self._orders.sendall(b"e")
        counted: dict[str, Any] = json.loads(self._replies.readline())
        after = self._mark()
        earlier, traffic = before.traffic, after.traffic
        cost = Cost(
            calls=counted["calls"],
            turns=counted["turns"],
            round_trips=traffic.round_trips - earlier.round_trips,
            statements=traffic.statements - earlier.statements,
            commits=after.transaction - before.transaction,
            notifications=traffic.notifications - earlier.notifications,
            database_sent=traffic.sent - earlier.sent,
            database_received=traffic.received - earlier.received,
            client_bytes=heard,
            wal=after.wal - before.wal,
        )
        return cost, counted["functions"]

    def _mark(self) -> _Mark:
        with self._watching.cursor() as cursor:
            cursor.execute(
                "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,"
                " (pg_current_wal_insert_lsn() - '0/0')::bigint"
            )
            row = cursor.fetchone()
        assert row is not None
        return _Mark(self._tap.traffic(), row[0], row[1])


_NOTHING = Phase(lambda: None, lambda: 0)


def _look(pid: int) -> tuple[str, int]:
    """The state of a process' first thread, and the CPU it has used; of one that is gone, that it sleeps."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return "S", 0


def settled(costs: Sequence[Cost]) -> Cost:
    """One cost from several measurements of the same.

    Calls and turns are the fewest: whatever else the machine does only adds to them, as when an answer comes in two
    pieces. Everything else is the median, which a timer in one of the measurements does not move.
    """
    fewest = {name: min(getattr(cost, name) for cost in costs) for name in ("calls", "turns")}
    medians = {name: statistics.median_low(getattr(cost, name) for cost in costs) for name in NAMES}
    return Cost(**{**medians, **fewest})


@contextmanager
def bench(settings: dict[str, Any]) -> Iterator[Bench]:
    """A server with the settings on a Postgres of its own; both end with the block."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lares-costs-")))
        directory.chmod(0o755)  # as root Postgres runs as another user, who must reach its files
        postgres = EmbeddedPostgres(directory / "database", settings=_POSTGRES)
        stack.callback(postgres.stop)
        parts = parse_dsn(postgres.start())
        place = directory / "tap"
        place.mkdir()
        tap = Tap(place, Path(parts["host"]) / f".s.PGSQL.{parts['port']}")
        stack.callback(tap.close)
        url, direct = (
            f"postgresql://{parts['user']}@/{parts['dbname']}?host={host}&port={parts['port']}"
            for host in (place, parts["host"])
        )
        port = free_port()
        config = directory / "lares.yaml"
        config.write_text(yaml.safe_dump(_configuration(directory, url, port, settings)))
        orders, theirs = socket.socketpair()
        stack.enter_context(closing(orders))
        orders.settimeout(_PATIENCE)
        log = stack.enter_context((directory / "lares.log").open("w"))
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.costs.counted", str(theirs.fileno()), str(config)],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        theirs.close()
        stack.callback(_end, server)
        assert server.stdout is not None
        stack.enter_context(server.stdout)
        for line in server.stdout:
            if line.startswith("ready:"):
                break
        else:
            raise AssertionError(
                f"the server did not start:\n{(directory / 'lares.log').read_text()[-5000:]}"
            )
        running = Bench(server, orders, tap, directory=directory, database_url=direct, port=port)
        yield running
        running.close()


def _end(server: subprocess.Popen[str]) -> None:
    if server.poll() is None:
        server.kill()
        server.wait()


def _configuration(directory: Path, url: str, port: int, settings: dict[str, Any]) -> dict[str, Any]:
    listeners: list[Any] = [{"bind": "127.0.0.1", "port": port, "serves": ["client", "admin"]}]
    base = {
        "server_name": SERVER_NAME,
        "public_baseurl": f"http://127.0.0.1:{port}/",
        "data_dir": str(directory / "data"),
        "database": {"url": url},
        "workers": 1,
        "registration": {"enabled": False, "shared_secret": SHARED_SECRET},
        "passwords": {"argon2_time_cost": 1},
        "rate_limits": {"enabled": False},
        "federation": {"enabled": False},
    }
    return {**base, **settings, "listeners": [*listeners, *settings.get("listeners", [])]}
