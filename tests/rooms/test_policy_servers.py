# SPDX-License-Identifier: Apache-2.0
"""Events of ours in a room with a policy server: none is written without its signature."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred, DeferredList

from homeserver.errors import Forbidden, RefusedElsewhere
from homeserver.protocol.event_auth import AuthError
from homeserver.protocol.events import Event
from homeserver.protocol.policy_servers import PolicyServer
from homeserver.protocol.room_versions import room_version
from homeserver.rooms.engine import Draft, Room, SendTransaction
from homeserver.rooms.engine.recommending import NoPolicyServers
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, Engine, member, message
from tests.rooms.intake.intake_fixture import Process, ends
from tests.rooms.policy_fixture import BOT, CONTENT, VIA, PolicyServersInMemory, policy

SERVER = PolicyServer.from_content(CONTENT)


async def guarded(
    database: Database, policy_servers: PolicyServersInMemory, version: str = "11"
) -> tuple[Process, Room]:
    """A room of Alice's and Bob's that uses the policy server."""
    process = await Process.open(database, policy_servers)
    room, _ = await process.room_with(BOT, version=version)
    await process.engine.join(room.room_id, BOB)
    await process.engine.engine.write(room.room_id, lambda _head: [policy(ALICE)], users=(ALICE,))
    assert policy_servers.asked == [], "the room's choice is nobody else's"
    return process, room


async def pdu_of(engine: Engine, event_id: str) -> Event:
    """The event as it is stored."""
    stored = (await engine.events.by_ids((event_id,)))[event_id]
    room = engine.cache.peek_key(stored.room)
    assert room is not None
    return Event.from_pdu(orjson.loads(stored.pdu), room.head.version, event_id)


def begin(engine: Engine, room: Room, *drafts: Draft, transaction: SendTransaction | None = None) -> Any:
    """Write, without waiting."""
    return Deferred.fromCoroutine(
        engine.engine.write(room.room_id, lambda _head: drafts, users=(ALICE, BOB), transaction=transaction)
    )


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_what_is_written_bears_its_signature(database: Database, version: str) -> None:
    """In memory, in the database, and beside this server's."""
    asked = PolicyServersInMemory()
    process, room = await guarded(database, asked, version)
    event_id = await process.say(room, "hello")
    assert SERVER is not None
    for event in (room.recent[-1].event, await pdu_of(process.engine, event_id)):
        assert event.event_id == event_id
        assert SERVER.recommends(event)
        assert set(event.pdu["signatures"]) == {"localhost", VIA}
    await process.engine.engine.write(room.room_id, lambda _head: [member(BOB, "leave")], users=(BOB,))
    assert SERVER.recommends(room.recent[-1].event) and room.head.membership(BOB) == "leave"
    fresh = await Engine.open(database)
    again = await fresh.cache.get(room.room_id)
    assert again is not None and again.head.policy_server == SERVER
    assert dict(again.head.members) == dict(room.head.members)


async def test_a_refusal_is_told_as_it_was_said_and_nothing_is_written(database: Database) -> None:
    """Of several events that belong together none is."""
    process, room = await guarded(database, PolicyServersInMemory())
    before = ends(room), await process.current(room)
    for drafts in (
        [message(ALICE, "spam")],
        [Draft("m.room.topic", ALICE, {"topic": "good"}, ""), message(ALICE, "spam")],
        [Draft("m.room.topic", ALICE, {"topic": "spam"}, ""), message(ALICE, "good")],
    ):
        with pytest.raises(RefusedElsewhere) as refusal:
            await begin(process.engine, room, *drafts)
        assert refusal.value.as_dict() == {"errcode": "ORG.EXAMPLE.SPAM", "error": "No spam please"}
        assert refusal.value.status == 400
    assert (ends(room), await process.current(room)) == before
    await process.say(room, "the room goes on")


async def test_many_at_once(database: Database) -> None:
    """They are asked about together; a refused one takes nobody else's with it, and each that stands is signed."""
    asked = PolicyServersInMemory()
    process, room = await guarded(database, asked)
    first = Deferred[None]()
    asked.meanwhile = lambda event: first if event.content.get("body") == "first" else None
    head = begin(process.engine, room, message(ALICE, "first"))
    words = ["a", "spam 1", "b", "c", "spam 2", "d"]
    others = [begin(process.engine, room, message(BOB, word)) for word in words]
    first.callback(None)
    await head
    results = await DeferredList(others, consumeErrors=True)
    assert [good for good, _ in results] == [True, False, True, True, False, True]
    said = [entry.event.content["body"] for entry in room.recent if "body" in entry.event.content]
    assert said == ["first", "a", "b", "c", "d"]
    assert SERVER is not None
    assert all(SERVER.recommends(entry.event) for entry in list(room.recent)[-5:])
    assert asked.bodies == ["first", *words, "b", "c", "d"], "what stood on a refused event was built anew"


async def test_one_that_waits_holds_up_no_other_room(database: Database) -> None:
    asked = PolicyServersInMemory()
    process, room = await guarded(database, asked)
    other = await process.engine.new_room()
    thinking = Deferred[None]()
    asked.meanwhile = lambda _event: thinking
    waiting = begin(process.engine, room, message(ALICE, "hm"))
    await process.say(other, "meanwhile")
    assert not waiting.called
    thinking.callback(None)
    assert (await waiting).event_id == ends(room)[0]


async def test_another_process_wrote_meanwhile(database: Database) -> None:
    """The event is built anew on what stands there now, and signed anew."""
    asked = PolicyServersInMemory()
    process, room = await guarded(database, asked)
    other = await Process.open(database, PolicyServersInMemory())
    theirs: list[str] = []

    def write(_event: Event) -> Deferred[None] | None:
        asked.meanwhile = lambda _event: None

        async def say() -> None:
            there = await other.engine.cache.get(room.room_id)
            assert there is not None
            theirs.append(await other.say(there, "first"))

        return Deferred.fromCoroutine(say())

    asked.meanwhile = write
    event_id = await process.say(room, "second")
    event = await pdu_of(process.engine, event_id)
    assert event.prev_event_ids == tuple(theirs)
    assert SERVER is not None and SERVER.recommends(event)
    assert asked.bodies == ["second", "second"]


async def test_a_repeated_request_is_answered_though_it_would_be_refused_now(database: Database) -> None:
    process, room = await guarded(database, PolicyServersInMemory())
    transaction = SendTransaction(ALICE, "DEVICE", f"send/{room.room_id}/m.room.message", "1")
    draft = Draft("m.room.message", ALICE, {"body": "hello"}, transaction=transaction)
    event_id = (await begin(process.engine, room, draft, transaction=transaction)).event_id
    strict = await Process.open(database, PolicyServersInMemory())
    refused = Draft("m.room.message", ALICE, {"body": "spam"}, transaction=transaction)
    assert (await begin(strict.engine, room, refused, transaction=transaction)).event_id == event_id


async def test_leaving_it_without_asking(database: Database) -> None:
    """The room's own word ends it, and so does the policy server's last user going."""
    asked = PolicyServersInMemory()
    process, room = await guarded(database, asked)
    write = process.engine.engine.write
    await write(room.room_id, lambda _head: [policy(ALICE, {}), message(ALICE, "spam")], users=(ALICE,))
    assert asked.asked == []
    await write(room.room_id, lambda _head: [policy(ALICE)], users=(ALICE,))
    with pytest.raises(RefusedElsewhere):
        await process.say(room, "spam")
    await write(room.room_id, lambda _head: [member(BOT, "leave", ALICE)], users=(ALICE, BOT))
    assert [event.type for event in asked.asked[1:]] == ["m.room.member"], "it is asked about its own end"
    await process.say(room, "spam")
    assert asked.bodies == ["spam"]


async def test_a_redacted_choice_is_none(database: Database) -> None:
    process, room = await guarded(database, PolicyServersInMemory())
    entry = room.head.state_event("m.room.policy")
    assert entry is not None
    redaction = Draft("m.room.redaction", ALICE, {}, redacts=entry.stored)
    await begin(process.engine, room, redaction)
    assert room.head.policy_server is None
    await process.say(room, "spam")


async def test_state_that_begins_with_the_choice(database: Database) -> None:
    """What follows the choice in the same plan is the policy server's business."""
    asked = PolicyServersInMemory()
    process, room = await guarded(database, asked)
    await begin(process.engine, room, policy(ALICE, {}))
    with pytest.raises(RefusedElsewhere):
        await begin(process.engine, room, policy(ALICE), message(ALICE, "spam"))
    assert room.head.policy_server is None, "nothing of the plan was written"


async def test_what_the_room_does_not_allow_is_not_asked_about(database: Database) -> None:
    asked = PolicyServersInMemory()
    process, room = await guarded(database, asked)
    with pytest.raises(AuthError):
        await begin(process.engine, room, Draft("m.room.topic", BOB, {"topic": "mine"}, ""))
    assert asked.asked == []


async def test_where_nobody_can_be_asked(database: Database) -> None:
    """A server that does not federate writes nothing there, nor a room that names it from the first."""
    _, room = await guarded(database, PolicyServersInMemory())
    alone = await Engine.open(database, policy_servers=NoPolicyServers())
    with pytest.raises(Forbidden):
        await alone.send(room.room_id, ALICE, "hello")
    itself = policy(ALICE, {**CONTENT, "via": "localhost"})
    with pytest.raises(Forbidden):
        await alone.engine.create(
            room_version("11"),
            Draft("m.room.create", ALICE, {"room_version": "11"}, ""),
            lambda _head: [member(ALICE, "join"), itself, message(ALICE, "hello")],
        )
