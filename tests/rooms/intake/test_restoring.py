# SPDX-License-Identifier: Apache-2.0
"""An honest event that came with altered content first is whole once it comes as it was sent."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from federation.inbound.reading import read_unverified
from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming, Outcome
from storage.database import Database
from tests.rooms.engine_fixture import heard
from tests.rooms.intake.dag import ids
from tests.rooms.intake.intake_fixture import DAVE, ERIN, Process, ends

VERSIONS = pytest.mark.parametrize("version", ["1", "10", "11", "12"])


def altered(whole: Incoming) -> Incoming:
    """What is left of the event when it comes with another content."""
    pdu = orjson.loads(whole.json)
    pdu["content"] = {**pdu["content"], "body": "never said", "name": "never called", "topic": "never set"}
    read = read_unverified(pdu, whole.event.room_version, whole.event.room_id)
    assert read.incoming is not None and read.incoming.event.event_id == whole.event.event_id
    assert "never" not in read.incoming.json
    return read.incoming


async def content(process: Process, room: Room, incoming: Incoming) -> dict[str, Any]:
    """As it is stored; and as memory has it, if it has."""
    event_id = incoming.event.event_id
    stored = (await process.engine.events.by_ids([event_id]))[event_id]
    found: dict[str, Any] = orjson.loads(stored.pdu)["content"]
    held = await process.engine.cache.get(room.room_id)
    assert held is not None
    for entry in (*held.recent, *held.head.state.values()):
        if entry.stored.event_id == event_id:
            assert entry.event.content == found
    return found


async def summary(database: Database, room: Room) -> Any:
    return await database.fetch_one("test", "SELECT topic FROM room_summaries WHERE room = %s", (room.key,))


@VERSIONS
async def test_messages_and_state(database: Database, version: str) -> None:
    """In the table, in memory, in the room's summary, in what relates to what; and in the other processes."""
    process, other = await Process.open(database), await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN, version=version)
    base = ends(room)
    thread = {
        "m.relates_to": {"rel_type": "m.thread", "event_id": base[0]},
        "body": "in a thread",
        "msgtype": "m.text",
    }
    said = dag.write(ERIN, "m.room.message", thread, prev=base)
    topic = dag.write(DAVE, "m.room.topic", {"topic": "kind words"}, "", prev=ids(said))
    await process.accept(room, altered(said), altered(topic))
    assert (await content(process, room, said), await content(process, room, topic)) == ({}, {})
    await content(other, room, topic)
    assert await summary(database, room) == (None,)
    verdicts = await process.receive(room, said, topic)
    assert [verdict.outcome for verdict in verdicts] == [Outcome.KNOWN] * 2
    assert await content(process, room, said) == thread
    assert await content(process, room, topic) == {"topic": "kind words"}
    await heard(other.engine, process.engine)
    assert await content(other, room, topic)
    assert await summary(database, room) == ("kind words",)
    (related,) = await database.fetch("test", "SELECT relates_to, rel_type, bundled FROM event_relations")
    assert related == (base[0], "m.thread", True)
    for process_ in (process, other):
        held = await process_.engine.cache.get(room.room_id)
        assert held is not None and held.head.content("m.room.topic") == {"topic": "kind words"}
    await process.check(room, dag)
    await process.say(room, "and on it goes")


async def test_never_the_other_way(database: Database) -> None:
    """Nor does anything else happen when what is whole comes again, whole or not."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    said = dag.say(DAVE, "kind", prev=ends(room))
    await process.accept(room, said)
    before = (await process.engine.cache.get(room.room_id)).head.head  # type: ignore[union-attr]
    await process.receive(room, altered(said))
    await process.receive(room, said)
    assert (await content(process, room, said))["body"] == "kind"
    assert (await process.engine.cache.get(room.room_id)).head.head == before  # type: ignore[union-attr]


@VERSIONS
async def test_what_was_redacted_stays_so(database: Database, version: str) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN, version=version)
    said = dag.say(ERIN, "secret", prev=ends(room))
    strike = dag.write(ERIN, "m.room.redaction", {}, prev=ids(said), redacts=said.event.event_id)
    await process.accept(room, altered(said), strike)
    await process.receive(room, said)
    assert await content(process, room, said) == {}


async def test_another_event_under_the_same_id(database: Database) -> None:
    """Which senders choose in old rooms."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, version="1")
    said = dag.say(DAVE, "kind", prev=ends(room))
    other = dag.say(DAVE, "another", prev=ends(room))
    await process.accept(room, altered(said))
    pdu = {**orjson.loads(other.json), "event_id": said.event.event_id}
    read = read_unverified(pdu, said.event.room_version, room.room_id)
    assert read.incoming is not None
    await process.receive(room, read.incoming)
    assert await content(process, room, said) == {}


async def test_what_was_altered_in_a_chain_or_a_state(database: Database) -> None:
    """It is whole when it takes its place, or comes again without one."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    topic = dag.write(DAVE, "m.room.topic", {"topic": "t"}, "", prev=ends(room))
    name = dag.write(DAVE, "m.room.name", {"name": "n"}, "", prev=ids(topic))
    version = topic.event.room_version
    await process.intake.receive_outliers(room.room_id, version, [altered(topic), altered(name)])
    assert await content(process, room, name) == {}
    await process.intake.receive_outliers(room.room_id, version, [name])
    assert await content(process, room, name) == {"name": "n"}
    await process.accept(room, topic)
    assert await content(process, room, topic) == {"topic": "t"}
