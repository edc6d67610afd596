# SPDX-License-Identifier: Apache-2.0
"""Hearing what has arrived before the reactor comes to it."""

from __future__ import annotations

from contextlib import closing
from time import monotonic

import psycopg2
import pytest
from twisted.internet.task import deferLater

from storage.database import Database, listener
from tests.reactor import reactor

PATIENCE = 30.0
"""Seconds until something that has to arrive is taken to be lost."""


async def test_what_has_arrived_is_heard_at_once_and_in_its_order(
    database: Database, database_url: str
) -> None:
    heard: list[str] = []

    def listener(payload: str) -> None:
        database.hear()  # in the midst of the first: the second must not overtake what follows here
        heard.append(payload)

    await database.listen("c", listener)
    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
        for payloads in ("first", "second"), ("third",):
            for payload in payloads:
                cursor.execute("SELECT pg_notify('c', %s)", (payload,))
            other.commit()
    until = monotonic() + PATIENCE
    while len(heard) < 3 and monotonic() < until:  # without the reactor, which gets no turn here
        database.hear()
    assert heard == ["first", "second", "third"]


async def test_nothing_is_heard_where_nobody_listens(database: Database) -> None:
    database.hear()


async def test_who_listened_is_told_that_news_may_have_been_missed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the connection was given up because Postgres did not do as told."""
    quoted, back = listener._quoted, []
    await database.listen("one", lambda _payload: None, lambda: back.append("one"))

    def refused_once(_channel: str) -> str:
        monkeypatch.setattr(listener, "_quoted", quoted)
        return '""'

    monkeypatch.setattr(listener, "_quoted", refused_once)
    await database.listen("two", lambda _payload: None)
    await deferLater(reactor, 0)
    assert back == ["one"]
