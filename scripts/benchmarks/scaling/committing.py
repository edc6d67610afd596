# SPDX-License-Identifier: Apache-2.0
"""How many commits a Postgres takes through one row's lock, and how many it can tell others of.

The commits are skeletons of the stream's: the row is updated, as many rows of an event's size as the commit has
positions are inserted under three indexes, others are notified, and the log is flushed. What the real ones do beside
that is CPU of the database, which the benchmark's scenarios measure.
"""

from __future__ import annotations

import os
import select
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import psycopg2

from scripts.benchmarks.cluster import Cluster
from scripts.benchmarks.measuring import percentile
from scripts.benchmarks.scaling.measurements import CommitRate, NotifyRate

DATABASE: Final = "skeleton"
EVENT_BYTES: Final = 600
SCHEMA: Final = """
CREATE TABLE line (position bigint NOT NULL);
INSERT INTO line VALUES (0);
CREATE TABLE entries (room int, ordinal bigint, position bigint, id text, body text, PRIMARY KEY (room, ordinal));
CREATE INDEX ON entries (position);
CREATE UNIQUE INDEX ON entries (id);
CREATE FUNCTION append(p_room int, p_count int, p_body text, p_note text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before bigint;
BEGIN
    UPDATE line SET position = position + p_count RETURNING position - p_count INTO before;
    INSERT INTO entries SELECT p_room, before + i, before + i, md5((before + i)::text), p_body
    FROM generate_series(1, p_count) AS i;
    IF p_note <> '' THEN
        PERFORM pg_notify('line', before || p_note);
    END IF;
    RETURN before;
END
$$;
"""
NOTE: Final = (
    '{"origin":"0123456789","count":1,"rooms":[12345],"users":[],"devices":[],"lost":[],"kinds":["events"]}'
)


def prepare(cluster: Cluster) -> None:
    """Make the database."""
    cluster.create_database(DATABASE)
    with _connected(cluster) as connection, connection.cursor() as cursor:
        cursor.execute(SCHEMA)


def flush_time(directory: Path, times: int = 100) -> float:
    """Milliseconds until 8 KiB at the end of a file are durable, the median."""
    path = directory / "flushed"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    taken = []
    try:
        for _ in range(times):
            started = time.perf_counter()
            os.write(descriptor, bytes(8192))
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return 1000 * statistics.median(taken)


def commit_rate(cluster: Cluster, connections: int, positions: int, seconds: float) -> CommitRate:
    """Commit from several connections at once, each again as soon as it is answered."""
    latencies: list[float] = []
    body = "x" * EVENT_BYTES
    barrier = threading.Barrier(connections + 1)
    deadline = [0.0]

    def commit(room: int) -> None:
        with _connected(cluster) as connection, connection.cursor() as cursor:
            cursor.execute("PREPARE append AS SELECT append($1, $2, $3, '')")
            barrier.wait()
            while (started := time.perf_counter()) < deadline[0]:
                cursor.execute("EXECUTE append(%s, %s, %s)", (room, positions, body))
                latencies.append(time.perf_counter() - started)
            barrier.wait()
            barrier.wait()  # a back end that ends takes its CPU out of sight for a moment

    threads = [threading.Thread(target=commit, args=(room,)) for room in range(connections)]
    for thread in threads:
        thread.start()
    before, started = cluster.process.cpu_seconds(), time.perf_counter()
    deadline[0] = started + seconds
    barrier.wait()
    barrier.wait()
    taken = time.perf_counter() - started
    used = cluster.process.cpu_seconds() - before
    barrier.wait()
    for thread in threads:
        thread.join()
    latencies.sort()
    return CommitRate(
        connections,
        positions,
        rate=len(latencies) / taken,
        p50=1000 * percentile(latencies, 50),
        p99=1000 * percentile(latencies, 99),
        cpu=1000 * used / len(latencies),
    )


def notify_rate(cluster: Cluster, listeners: int, seconds: float) -> NotifyRate:
    """Commit one position after the other, each when all who listen have heard of the last."""
    with ExitStack() as stack:
        hearing = [stack.enter_context(_connected(cluster)) for _ in range(listeners)]
        for connection in hearing:
            with connection.cursor() as cursor:
                cursor.execute("LISTEN line")
        speaking = stack.enter_context(_connected(cluster))
        cursor = stack.enter_context(speaking.cursor())
        body, latencies, commits = "x" * EVENT_BYTES, [], 0
        before, started = cluster.process.cpu_seconds(), time.perf_counter()
        while time.perf_counter() - started < seconds:
            cursor.execute("SELECT append(0, 1, %s, %s)", (body, NOTE))
            answered = time.perf_counter()
            commits += 1
            _all_heard(hearing)
            latencies.append(time.perf_counter() - answered)
        taken, used = time.perf_counter() - started, cluster.process.cpu_seconds() - before
    latencies.sort()
    return NotifyRate(
        listeners,
        rate=commits / taken,
        p50=1000 * percentile(latencies, 50),
        p99=1000 * percentile(latencies, 99),
        cpu=1000 * used / commits,
    )


def _all_heard(hearing: Sequence[Any]) -> None:
    waiting = {connection.fileno(): connection for connection in hearing}
    while waiting:
        readable, _, _ = select.select(list(waiting), [], [], 10.0)
        if not readable:
            raise TimeoutError("a notification did not come")
        for descriptor in readable:
            connection = waiting[descriptor]
            connection.poll()
            if connection.notifies:
                connection.notifies.clear()
                del waiting[descriptor]


def _connected(cluster: Cluster) -> closing[Any]:
    connection = psycopg2.connect(cluster.url(DATABASE))
    connection.autocommit = True
    return closing(connection)
