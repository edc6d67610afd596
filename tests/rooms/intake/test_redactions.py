# SPDX-License-Identifier: Apache-2.0
"""Redactions from outside: whichever comes first, and whoever may."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.rooms.intake.incoming import Incoming
from storage.database import Database
from tests.rooms.intake.dag import Dag, ids
from tests.rooms.intake.intake_fixture import DAVE, ERIN, Process, ends

VERSIONS = pytest.mark.parametrize("version", ["1", "10", "11", "12"])


def redaction(dag: Dag, sender: str, target: Incoming, *, prev: list[str]) -> Incoming:
    return dag.write(sender, "m.room.redaction", {}, prev=prev, redacts=target.event.event_id)


async def content_of(process: Process, incoming: Incoming) -> tuple[dict[str, Any], str | None]:
    event_id = incoming.event.event_id
    stored = (await process.engine.events.by_ids([event_id]))[event_id]
    content: dict[str, Any] = orjson.loads(stored.pdu)["content"]
    return content, stored.redacted_by


@VERSIONS
async def test_after_its_target(database: Database, version: str) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN, version=version)
    said = dag.say(ERIN, "secret", prev=ends(room))
    strike = redaction(dag, ERIN, said, prev=ids(said))
    await process.accept(room, said)
    await process.accept(room, strike)
    assert await content_of(process, said) == ({}, strike.event.event_id)
    assert [e.event.content for e in room.recent if e.stored.event_id == said.event.event_id] == [{}]


@VERSIONS
@pytest.mark.parametrize("together", [True, False])
async def test_before_its_target(database: Database, version: str, together: bool) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN, version=version)
    base = ends(room)
    said = dag.say(ERIN, "secret", prev=base)
    thread = {
        "m.relates_to": {"rel_type": "m.thread", "event_id": base[0]},
        "body": "in a thread",
        "msgtype": "m.text",
    }
    related = dag.write(ERIN, "m.room.message", thread, prev=base)
    strikes = [redaction(dag, ERIN, each, prev=base) for each in (said, related)]
    if together:
        await process.accept(room, *strikes, said, related)
    else:
        await process.accept(room, *strikes)
        again = await Process.open(database)
        held = await again.engine.cache.get(room.room_id)
        assert held is not None
        await again.accept(held, said, related)
        process, room = again, held
    assert await content_of(process, said) == ({}, strikes[0].event.event_id)
    assert await content_of(process, related) == ({}, strikes[1].event.event_id)
    assert {e.stored.event_id: e.event.content for e in room.recent}[said.event.event_id] == {}
    assert await database.fetch("test", "SELECT 1 FROM event_relations") == []
    assert await database.fetch("test", "SELECT 1 FROM waiting_redactions") == []


@pytest.mark.parametrize("first", ["target", "redaction"])
async def test_by_one_who_may_not(database: Database, first: str) -> None:
    """From version 3 on such a redaction is an event like any other, and strikes nothing."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN, power=10)
    base = ends(room)
    said = dag.say(DAVE, "mine", prev=base)
    strike = redaction(dag, ERIN, said, prev=base)
    for each in (said, strike) if first == "target" else (strike, said):
        await process.accept(room, each)
    content, redacted_by = await content_of(process, said)
    assert content["body"] == "mine" and redacted_by is None


async def test_present_state(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    topic = dag.topic(DAVE, "secret", prev=ends(room))
    await process.accept(room, topic)
    assert room.head.text("m.room.topic", "topic") == "secret"
    await process.accept(room, redaction(dag, DAVE, topic, prev=ids(topic)))
    assert room.head.text("m.room.topic", "topic") is None
    rows = await database.fetch("test", "SELECT topic FROM room_summaries WHERE room = %s", (room.key,))
    assert rows == [(None,)]


async def test_an_id_that_is_none(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    odd = dag.write(DAVE, "m.room.redaction", {"redacts": "$" + "x" * 40_000}, prev=ends(room))
    await process.accept(room, odd)
    odd = dag.write(DAVE, "m.room.redaction", {"redacts": "$a\0b"}, prev=ends(room))
    await process.accept(room, odd)
    assert await database.fetch("test", "SELECT 1 FROM waiting_redactions") == []
