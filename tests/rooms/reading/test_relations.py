# SPDX-License-Identifier: Apache-2.0
"""Children of events: listed, aggregated under their parents, and gathered as threads."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.errors import Forbidden, InvalidParam, NotFound
from homeserver.rooms.engine import Draft
from homeserver.rooms.reading.relations import RelationsQuery
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member, message
from tests.rooms.reading.reading_fixture import Client, Reading, ids, visibility


def related(sender: str, rel_type: str, parent: str, kind: str = "m.room.message", **content: Any) -> Draft:
    """A draft that relates to an event; an edit has new content unless told otherwise."""
    if rel_type == "m.replace":
        content.setdefault("m.new_content", {"body": "new"})
    whole = {**content, "m.relates_to": {"rel_type": rel_type, "event_id": parent}}
    return Draft(kind, sender, {name: value for name, value in whole.items() if value is not None})


async def bundle(reading: Reading, user: str, room_id: str, event_id: str) -> dict[str, Any]:
    """What is aggregated under an event, the same by itself and in a page."""
    alone = orjson.loads(await reading.services.event.get(Client(user), room_id, event_id))
    page = await reading.page(user, room_id, limit=1000)
    in_page = next(event for event in page["chunk"] if event["event_id"] == event_id)
    assert alone == in_page
    relations: dict[str, Any] = alone["unsigned"].get("m.relations", {})
    return relations


async def redact(reading: Reading, room_id: str, event_id: str) -> None:
    target = (await reading.engine.events.by_ids([event_id]))[event_id]
    await reading.write(room_id, Draft("m.room.redaction", ALICE, {}, redacts=target))


async def test_the_edit_in_force(database: Database) -> None:
    """The one with the latest clock, of the same sender and type, with new content; redacting it brings back the last.

    "Validity of replacement events", "Server-side aggregation of m.replace relationships".
    """
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    said = (await reading.write(room.room_id, member(BOB, "join"), message(ALICE, "old")))[1]
    clock = 1_800_000_000_000

    def edit(sender: str, ts: int, **more: Any) -> Draft:
        draft = related(sender, "m.replace", said, **more)
        return Draft(draft.type, draft.sender, draft.content, origin_server_ts=clock + ts)

    written = await reading.write(
        room.room_id,
        edit(ALICE, 1),
        edit(ALICE, 3),
        edit(ALICE, 2),
        edit(BOB, 9),
        edit(ALICE, 9, kind="m.sticker"),
        edit(ALICE, 9, **{"m.new_content": None}),
    )
    in_force = (await bundle(reading, BOB, room.room_id, said))["m.replace"]
    assert in_force["event_id"] == written[1]
    assert in_force["content"]["m.new_content"] == {"body": "new"}
    assert in_force["room_id"] == room.room_id
    await reading.write(room.room_id, related(ALICE, "m.replace", written[1]))
    assert await bundle(reading, BOB, room.room_id, written[1]) == {}  # no edits of edits
    await redact(reading, room.room_id, written[1])
    assert (await bundle(reading, BOB, room.room_id, said))["m.replace"]["event_id"] == written[2]
    await redact(reading, room.room_id, said)
    assert await bundle(reading, BOB, room.room_id, said) == {}


async def test_a_thread_in_brief(database: Database) -> None:
    """Its size, last event with that one's own edit, and whether the reader took part."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    root = (
        await reading.write(room.room_id, member(BOB, "join"), member(CAROL, "join"), message(ALICE, "x"))
    )[2]
    replies = await reading.write(
        room.room_id, *(related(sender, "m.thread", root, body="y") for sender in (BOB, ALICE, BOB))
    )
    edit = (await reading.write(room.room_id, related(BOB, "m.replace", replies[2])))[0]
    for user, took_part in ((ALICE, True), (BOB, True), (CAROL, False)):
        thread = (await bundle(reading, user, room.room_id, root))["m.thread"]
        assert (thread["count"], thread["current_user_participated"]) == (3, took_part)
        assert thread["latest_event"]["event_id"] == replies[2]
        assert thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"] == edit
    reading.world.ignoring[CAROL] = frozenset({BOB})
    thread = (await bundle(reading, CAROL, room.room_id, root))["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (1, replies[1])
    await reading.write(room.room_id, related(ALICE, "m.thread", replies[1]))
    assert "m.thread" not in await bundle(reading, ALICE, room.room_id, replies[1])  # no threads in threads
    for reply in replies:
        await redact(reading, room.room_id, reply)
    assert await bundle(reading, ALICE, room.room_id, root) == {}


async def test_references_are_listed(database: Database) -> None:
    """By id, in order; annotations and rich replies are not aggregated."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    said = await reading.engine.send(room.room_id, ALICE, "x")
    reply = Draft("m.room.message", ALICE, {"m.relates_to": {"m.in_reply_to": {"event_id": said}}})
    first, _, _, second = await reading.write(
        room.room_id,
        related(ALICE, "m.reference", said),
        related(ALICE, "m.annotation", said, key="x"),
        reply,
        related(ALICE, "m.reference", said, kind="org.example.answer"),
    )
    chunk = [{"event_id": first}, {"event_id": second}]
    assert await bundle(reading, ALICE, room.room_id, said) == {"m.reference": {"chunk": chunk}}


async def test_nothing_leaks_through_aggregations(database: Database) -> None:
    """Who left learns of no later edit; who may not see a thread's last event is not shown it."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(visibility="shared")
    said = await reading.engine.send(room.room_id, ALICE, "x")
    edit = (await reading.write(room.room_id, related(ALICE, "m.replace", said)))[0]
    await reading.write(room.room_id, member(BOB, "join"), member(BOB, "leave"), visibility(ALICE, "joined"))
    await reading.write(
        room.room_id, related(ALICE, "m.replace", said), related(ALICE, "m.thread", said, body="secret")
    )
    assert (await bundle(reading, BOB, room.room_id, said))["m.replace"]["event_id"] == edit
    await reading.write(room.room_id, member(CAROL, "join"))
    assert await bundle(reading, CAROL, room.room_id, said) == {}
    assert (await bundle(reading, ALICE, room.room_id, said)).keys() == {"m.replace", "m.thread"}


async def test_children_by_type(database: Database) -> None:
    """All, those of one relation type, and those of one event type among them; foreign ones are none."""
    reading = await Reading.open(database)
    room, other = await reading.engine.new_room(), await reading.engine.new_room()
    said = await reading.engine.send(room.room_id, ALICE, "x")
    thread, reaction, edit = await reading.write(
        room.room_id,
        related(ALICE, "m.thread", said),
        related(ALICE, "m.annotation", said, kind="m.reaction"),
        related(ALICE, "m.replace", said),
    )
    await reading.write(other.room_id, related(ALICE, "m.thread", said))

    async def children(**query: Any) -> list[str]:
        answer = await reading.services.related.page(
            Client(ALICE), room.room_id, said, RelationsQuery(**query)
        )
        return ids(orjson.loads(answer)["chunk"])

    assert await children() == [edit, reaction, thread]
    assert await children(backwards=False) == [thread, reaction, edit]
    assert await children(rel_type="m.annotation") == [reaction]
    assert await children(rel_type="m.replace", event_type="m.room.message") == [edit]
    assert await children(rel_type="m.replace", event_type="m.reaction") == []
    await redact(reading, room.room_id, reaction)
    assert await children() == [edit, thread]
    reading.world.ignoring[ALICE] = frozenset({ALICE})
    assert await children() == []


async def test_children_of_children(database: Database) -> None:
    """Three levels deep; a filter applies to what leads to them, too."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    chain = [await reading.engine.send(room.room_id, ALICE, "x")]
    for rel_type in ("m.thread", "m.thread", "m.annotation", "m.reference"):
        chain.extend(await reading.write(room.room_id, related(ALICE, rel_type, chain[-1])))

    async def page(**query: Any) -> dict[str, Any]:
        asked = RelationsQuery(recurse=True, **query)
        answer: dict[str, Any] = orjson.loads(
            await reading.services.related.page(Client(ALICE), room.room_id, chain[0], asked)
        )
        return answer

    answer = await page()
    assert ids(answer["chunk"]) == chain[3:0:-1]
    assert answer["recursion_depth"] == 3
    assert ids((await page(rel_type="m.thread"))["chunk"]) == [chain[2], chain[1]]
    assert ids((await page(rel_type="m.annotation"))["chunk"]) == []
    first = await page(limit=2)
    assert ids(first["chunk"]) == [chain[3], chain[2]]
    assert ids((await page(start=first["next_batch"]))["chunk"]) == [chain[1]]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hidden=st.lists(st.booleans(), max_size=20), limit=st.integers(1, 6), backwards=st.booleans())
async def test_pages_of_children_together_are_all_of_them(
    database: Database, hidden: list[bool], limit: int, backwards: bool
) -> None:
    """Whatever of them is hidden from the reader, and with tokens that `/messages` takes as well."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(visibility="world_readable")
    said = await reading.engine.send(room.room_id, ALICE, "x")
    expected, setting = [], "world_readable"
    for hide in hidden:
        wanted = "joined" if hide else "world_readable"
        if wanted != setting:
            await reading.write(room.room_id, visibility(ALICE, wanted))
            setting = wanted
        event_id = (await reading.write(room.room_id, related(ALICE, "m.thread", said)))[0]
        if not hide:
            expected.append(event_id)
    await reading.write(room.room_id, member(BOB, "join"))
    found: list[str] = []
    start = None
    for _ in range(50):
        query = RelationsQuery(backwards=backwards, limit=limit, start=start)
        answer = orjson.loads(await reading.services.related.page(Client(BOB), room.room_id, said, query))
        assert answer.get("prev_batch") == start
        found.extend(ids(answer["chunk"]))
        start = answer.get("next_batch")
        if start is None:
            break
        await reading.page(BOB, room.room_id, start=start)
    assert found == (expected[::-1] if backwards else expected)


async def test_relations_of_what_one_may_not_see(database: Database) -> None:
    """M_NOT_FOUND, for the event and for the room."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(visibility="joined")
    said = await reading.engine.send(room.room_id, ALICE, "x")
    for event_id in (said, "$nothing"):
        with pytest.raises(NotFound):
            await reading.services.related.page(Client(BOB), room.room_id, event_id, RelationsQuery())
    await reading.write(room.room_id, member(BOB, "join"))
    with pytest.raises(NotFound):
        await reading.services.related.page(Client(BOB), room.room_id, said, RelationsQuery())


async def threads(reading: Reading, user: str, room_id: str, **options: Any) -> dict[str, Any]:
    asked = {"start": None, "limit": None, "participated": False, **options}
    answer: dict[str, Any] = orjson.loads(await reading.services.threads.page(Client(user), room_id, **asked))
    return answer


async def test_threads_by_their_last_event(database: Database) -> None:
    """Newest first, page by page, all or those the reader took part in, without ignored people's say."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.write(room.room_id, member(BOB, "join"), member(CAROL, "join"))
    roots = await reading.write(room.room_id, message(ALICE, "0"), message(BOB, "1"), message(ALICE, "2"))
    order = (1, 0, 2, 1)
    await reading.write(
        room.room_id,
        *(related(CAROL if n == 2 else ALICE, "m.thread", roots[n]) for n in order),
        related(ALICE, "m.thread", "$unknown"),
    )
    answer = await threads(reading, ALICE, room.room_id)
    assert ids(answer["chunk"]) == [roots[1], roots[2], roots[0]]
    assert "next_batch" not in answer
    assert answer["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"] == 2
    assert ids((await threads(reading, CAROL, room.room_id, participated=True))["chunk"]) == [roots[2]]
    assert ids((await threads(reading, BOB, room.room_id, participated=True))["chunk"]) == [roots[1]]
    found, start = [], None
    for _ in range(3):
        answer = await threads(reading, ALICE, room.room_id, limit=1, start=start)
        found.extend(ids(answer["chunk"]))
        start = answer.get("next_batch")
    assert start is None
    assert found == [roots[1], roots[2], roots[0]]
    reading.world.ignoring[ALICE] = frozenset({BOB, CAROL})
    chunk = (await threads(reading, ALICE, room.room_id))["chunk"]
    assert ids(chunk) == [roots[1], roots[0]]
    assert chunk[0]["content"] == {}


async def test_threads_of_a_room_one_may_not_read(database: Database) -> None:
    """Forbidden; a token of another kind is refused."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    with pytest.raises(Forbidden):
        await threads(reading, BOB, room.room_id)
    with pytest.raises(InvalidParam):
        await threads(reading, ALICE, room.room_id, start="s1")
