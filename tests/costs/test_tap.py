# SPDX-License-Identifier: Apache-2.0
"""The tap between a server and Postgres: what it counts is what was said, and it changes nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from tests.costs.tap import Tap, Traffic
from tests.waiting import wait_until


@pytest.fixture
def tapped(postgres: str, tmp_path: Path) -> Iterator[tuple[Tap, Any]]:
    """A tap, and a connection through it."""
    parts = parse_dsn(postgres)
    tap = Tap(tmp_path, Path(parts["host"]) / f".s.PGSQL.{parts['port']}")
    try:
        with closing(psycopg2.connect(make_dsn(postgres, host=str(tmp_path)))) as connection:
            connection.autocommit = True
            yield tap, connection
    finally:
        tap.close()


def counts(before: Traffic, after: Traffic) -> tuple[int, int, int]:
    """Round trips, statements and notifications."""
    return (
        after.round_trips - before.round_trips,
        after.statements - before.statements,
        after.notifications - before.notifications,
    )


def test_statements_and_round_trips_are_counted_apart(tapped: tuple[Tap, Any]) -> None:
    """Three statements in one request are one round trip; an error is a statement, too."""
    tap, connection = tapped
    before = tap.traffic()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1; SELECT 2; SELECT 3")
        assert cursor.fetchone() == (3,)
        with pytest.raises(psycopg2.errors.DivisionByZero):
            cursor.execute("SELECT 1 / 0")
    assert counts(before, tap.traffic()) == (2, 4, 0)
    assert not tap.busy()
    assert tap.backends() == [connection.info.backend_pid]


def test_large_answers_pass_whole(tapped: tuple[Tap, Any]) -> None:
    """Whatever the pieces they come in; the bytes counted are no fewer than those of the answer."""
    tap, connection = tapped
    before = tap.traffic()
    with connection.cursor() as cursor:
        cursor.execute("SELECT repeat('x', 3000000)")
        assert cursor.fetchone() == ("x" * 3_000_000,)
    assert tap.traffic().received - before.received > 3_000_000


def test_notifications_are_heard_and_counted(tapped: tuple[Tap, Any]) -> None:
    tap, connection = tapped
    with connection.cursor() as cursor:
        cursor.execute("LISTEN here")
        before = tap.traffic()
        cursor.execute("NOTIFY here")

    def heard() -> bool:
        connection.poll()
        return bool(connection.notifies)

    wait_until(heard, "the notification")
    assert counts(before, tap.traffic()) == (1, 1, 1)


def test_connections_that_ended_stay_counted(tapped: tuple[Tap, Any]) -> None:
    tap, connection = tapped
    connection.close()
    wait_until(lambda: tap.backends() == [], "the end of the connection")
    assert tap.traffic().round_trips == 1
