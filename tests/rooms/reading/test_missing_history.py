# SPDX-License-Identifier: Apache-2.0
"""Pages that reach what is missing here, whoever may have it: they get on, they end when it is time, they cost nothing
where nothing is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming
from homeserver.rooms.reading import walking
from homeserver.rooms.reading.missing_history import Filled, Filling
from homeserver.rooms.reading.walking import MOST_FILLINGS
from storage.database import Database
from tests.rooms.engine_fixture import ALICE
from tests.rooms.intake.dag import Dag, ids
from tests.rooms.intake.intake_fixture import DAVE, Process, ends
from tests.rooms.reading.reading_fixture import Reading
from tests.rooms.reading.reading_fixture import ids as shown


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a page is how often it asked, not how long this machine took."""
    monkeypatch.setattr(walking, "PATIENCE", 600.0)


@dataclass(slots=True)
class Elsewhere:
    """Other servers, as a test wants them."""

    answers: list[Filled] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    obtains: bool = True

    def obtainable(self, room: Room) -> bool:
        return self.obtains

    async def fill(self, room: Room, *, upto: int, above: int, patience: float) -> Filled:
        assert patience > 0
        self.asked.append((upto, above))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def find(self, room: Room, event_id: str, *, patience: float) -> bool:
        return False

    async def find_by_time(self, room: Room, timestamp: int, *, backwards: bool, patience: float) -> bool:
        return False


async def gapped(
    database: Database, elsewhere: Elsewhere
) -> tuple[Reading, Process, Room, Dag, list[Incoming], Incoming]:
    """A room that has an event without the five before it."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    line: list[Incoming] = []
    prev = ends(room)
    for number in range(5):
        line.append(dag.say(DAVE, f"{number}", prev=prev))
        prev = ids(line[-1])
    late = dag.say(DAVE, "late", prev=prev)
    await process.accept(room, Incoming(late.event, late.json, list(dag.before(late.event).values())))
    reading = await Reading.open(database, engine=process.engine, missing=elsewhere)
    return reading, process, room, dag, line, late


async def test_a_page_that_must_wait_can_be_taken_up_again(database: Database) -> None:
    """Each time at another token, as long as it takes; nothing is skipped when it is there."""
    elsewhere = Elsewhere([Filled(Filling.UNDER_WAY)])
    reading, process, room, _, line, late = await gapped(database, elsewhere)
    page = await reading.page(ALICE, room.room_id, limit=10)
    assert shown(page["chunk"]) == ids(late)
    tokens = {page["end"]}
    for _ in range(4):
        page = await reading.page(ALICE, room.room_id, limit=10, start=page["end"])
        assert page["chunk"] == [] and page["end"] not in tokens
        tokens.add(page["end"])
    await process.intake.receive_history(room.room_id, line)
    found = await reading.walk(ALICE, room.room_id, limit=3, start=page["end"])
    assert found[:5] == ids(*reversed(line)) and len(found) > 5


async def test_what_is_lost_is_passed_over(database: Database) -> None:
    elsewhere = Elsewhere([Filled(Filling.LOST)])
    reading, _, room, dag, line, late = await gapped(database, elsewhere)
    found = await reading.walk(ALICE, room.room_id, limit=3)
    known = [each for each in reversed(dag.events) if each not in ids(*line)]
    assert found == known
    depth, below = late.event.depth, line[0].event.depth - 1
    assert set(elsewhere.asked) == {(depth, below)}


async def test_a_page_asks_only_so_often(database: Database) -> None:
    """Even if it is always told that there is more."""
    elsewhere = Elsewhere([Filled(Filling.FILLED)])
    reading, _, room, _, _, late = await gapped(database, elsewhere)
    page = await reading.page(ALICE, room.room_id, limit=10)
    assert shown(page["chunk"]) == ids(late) and "end" in page
    assert len(elsewhere.asked) == MOST_FILLINGS


async def test_pages_that_do_not_reach_it_ask_nobody(database: Database) -> None:
    elsewhere = Elsewhere([])
    reading, process, room, _, _, late = await gapped(database, elsewhere)
    newest = await process.say(room, "newest")
    assert shown((await reading.page(ALICE, room.room_id, limit=2))["chunk"]) == [newest, *ids(late)]
    end = (await reading.page(ALICE, room.room_id, limit=2))["end"]
    page = await reading.page(ALICE, room.room_id, limit=10, stop=end)
    assert shown(page["chunk"]) == [newest, *ids(late)]
    assert elsewhere.asked == []


async def test_a_room_with_nobody_else_in_it_asks_nobody(database: Database) -> None:
    elsewhere = Elsewhere([], obtains=False)
    reading, _, room, dag, line, _ = await gapped(database, elsewhere)
    found = await reading.walk(ALICE, room.room_id, limit=3)
    assert found == [each for each in reversed(dag.events) if each not in ids(*line)]
    assert elsewhere.asked == []


async def test_forwards_it_is_tried_and_then_passed(database: Database) -> None:
    elsewhere = Elsewhere([Filled(Filling.UNDER_WAY)])
    reading, _, room, dag, line, _ = await gapped(database, elsewhere)
    found = await reading.walk(ALICE, room.room_id, limit=3, backwards=False)
    assert found == [each for each in dag.events if each not in ids(*line)]
    assert elsewhere.asked


async def test_looking_for_gaps_takes_no_query_of_its_own(database: Database) -> None:
    counted: list[str] = []
    fetch = database.fetch

    async def counting(name: str, *args: Any, **kwargs: Any) -> Any:
        counted.append(name)
        return await fetch(name, *args, **kwargs)

    process = await Process.open(database)
    room = await process.engine.new_room()
    for number in range(10):
        await process.say(room, str(number))
    reading = await Reading.open(database, engine=process.engine, missing=Elsewhere([]), budget=0)
    await reading.page(ALICE, room.room_id, limit=5)
    database.fetch = counting  # type: ignore[method-assign]
    try:
        await reading.page(ALICE, room.room_id, limit=5)
        await reading.page(ALICE, room.room_id, limit=100)
    finally:
        database.fetch = fetch  # type: ignore[method-assign]
    assert counted.count("gaps_page") == 2
    assert not [name for name in counted if name.startswith("gaps_") and name != "gaps_page"]
