# SPDX-License-Identifier: Apache-2.0
"""What was measured of the limits, as plain values, and its JSON form: what `limits` writes and the model reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

FILE: Final = Path(__file__).with_name("measurements.json")
"""The measurements that the model takes when it is given no others."""


@dataclass(frozen=True, slots=True)
class CommitRate:
    """Commits through the one-row lock, by so many connections at once, of so many positions each."""

    connections: int
    positions: int
    rate: float
    """Commits per second, all connections together."""
    p50: float
    """Milliseconds from the statement to its answer, as is p99."""
    p99: float
    cpu: float
    """Milliseconds of the database's CPU per commit."""


@dataclass(frozen=True, slots=True)
class NotifyRate:
    """Commits that notify, with so many connections that listen."""

    listeners: int
    rate: float
    """Commits per second; each is heard by every listener."""
    p50: float
    """Milliseconds from the commit's answer until all have heard, as is p99; 0 where they heard before it."""
    p99: float
    cpu: float
    """Milliseconds of the database's CPU per commit."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Clients that wait and are told nothing."""

    kind: str
    """`long-poll` or `websocket`."""
    count: int
    bytes_each: float
    cpu_each: float
    """Milliseconds of CPU per client and second of waiting."""
    open_cpu: float
    """Milliseconds of CPU to take one in: connection, request and what it needs."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One server process."""

    idle_bytes: int
    user_bytes: float
    """Of a user who is about, beyond the waiting request."""
    room_bytes: float
    """Of a room in memory, of ten members."""
    connections: int
    """To Postgres, under load."""
    idle_connections: int


@dataclass(frozen=True, slots=True)
class Operation:
    """Milliseconds of CPU per operation, from the benchmark's scenarios."""

    server: float
    database: float


@dataclass(frozen=True, slots=True)
class Measurements:
    """One run of `limits`."""

    date: str
    machine: dict[str, str]
    flush: float
    """Milliseconds of the disk to make 8 KiB durable, the median."""
    commits: list[CommitRate]
    notifications: list[NotifyRate]
    parked: list[Parked]
    worker: Worker
    operations: dict[str, Operation]
    wal_per_message: float
    """Bytes of write-ahead log per message where ten are sent at once."""
    stored_per_message: float
    """Bytes of tables and indexes per message."""


def write_json(measurements: Measurements, path: Path) -> None:
    """Write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    path.write_bytes(orjson.dumps(dataclasses.asdict(measurements), option=options))


def read_json(path: Path = FILE) -> Measurements:
    """Read what `write_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
    data: dict[str, Any] = orjson.loads(path.read_bytes())
    parts = {
        "commits": [CommitRate(**each) for each in data["commits"]],
        "notifications": [NotifyRate(**each) for each in data["notifications"]],
        "parked": [Parked(**each) for each in data["parked"]],
        "worker": Worker(**data["worker"]),
        "operations": {name: Operation(**each) for name, each in data["operations"].items()},
    }
    return Measurements(**{**data, **parts})
