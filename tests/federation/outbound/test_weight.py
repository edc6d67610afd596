# SPDX-License-Identifier: Apache-2.0
"""What waits for other servers in memory is bounded in bytes, for each and for all, and nothing is lost by it."""

from __future__ import annotations

from sys import getsizeof

import pytest
from twisted.internet.defer import Deferred

from federation.outbound import OutgoingEdu
from federation.outbound.lane import (
    FLEETING_BYTES,
    MOST_BYTES_WAITING,
    MOST_FLEETING_BYTES,
    PLACE_BYTES,
    Held,
    Lane,
)
from federation.outbound.sender import SCARCE_BYTES
from federation.outbound.transaction import Edu, Pdu, weight
from storage.database import Database
from storage.outbound import Place
from storage.outgoing_edus import OutgoingEduStore
from tests.federation.outbound.outbound_fixture import Process

A, B = "a.test", "b.test"
KIB, MIB = 2**10, 2**20


TEXT = getsizeof("")
"""Bytes of a string besides its characters."""


def pdus(number: int, size: int) -> list[Pdu]:
    return [Pdu(position, f"${position}", "x" * (size - TEXT)) for position in range(1, number + 1)]


def test_an_event_weighs_once_however_many_servers_it_waits_for() -> None:
    held = Held(MIB)
    lanes = [Lane(f"s{n}.test", held) for n in range(50)]
    for pdu in pdus(3, KIB):
        for lane in lanes:
            lane.offer(pdu, True)
    assert held.bytes == 3 * KIB
    for lane in lanes[1:]:
        lane.begin_sending(MIB)
        lane.sent(2)
        lane.close()
        lane.close()
    assert held.bytes == 3 * KIB
    lanes[0].begin_sending(KIB)
    assert (len(lanes[0].sending), held.bytes) == (1, 3 * KIB)
    lanes[0].take_back()
    assert (lanes[0].behind, held.bytes) == (0, 2 * KIB)
    lanes[0].close()
    assert held.bytes == 0


def test_what_is_not_ascii_weighs_what_it_takes() -> None:
    assert 2_000 <= weight(Pdu(1, "$1", "ж" * 1_000)) < 2_200
    assert 4_000 <= weight(Edu("m.typing", "🙂" * 1_000)) < 4_200


@pytest.mark.parametrize(("most", "waiting"), [(100 * MIB, MOST_BYTES_WAITING // (60 * KIB)), (MIB, 18)])
def test_a_lane_forgets_what_is_too_large_for_it_or_for_all(most: int, waiting: int) -> None:
    held = Held(most)
    lane = Lane(A, held)
    counts = [lane.offer(pdu, True) for pdu in pdus(waiting + 1, 60 * KIB)]
    assert counts == [1] * waiting + [-waiting]
    assert (lane.behind, held.bytes) == (0, 0)


def test_fleeting_units_are_dropped_oldest_first_and_what_is_new_if_all_is_full() -> None:
    held = Held(2 * MIB)
    lane, other = Lane(A, held), Lane(B, held)
    for number in range(1000):
        lane.pass_on(("m.typing", str(number)), Edu("m.typing", "x" * (10_000 - TEXT)))
    size = 10_000 + FLEETING_BYTES
    assert len(lane.fleeting) == MOST_FLEETING_BYTES // size
    assert next(reversed(lane.fleeting)) == ("m.typing", "999")
    assert lane.fleeting_bytes == held.bytes == len(lane.fleeting) * size
    held.most = held.bytes + size
    other.pass_on(("m.typing", "1"), Edu("m.typing", "x" * (10_000 - TEXT)))
    other.pass_on(("m.typing", "2"), Edu("m.typing", "x" * (10_000 - TEXT)))
    other.pass_on(("m.typing", "1"), Edu("m.typing", "new"))
    assert list(other.fleeting.values()) == [Edu("m.typing", "new")]
    for each in (lane, other):
        each.close()
    assert (lane.fleeting_bytes, held.bytes) == (0, 0)


def test_places_of_what_was_missed_weigh_as_well() -> None:
    held = Held(MIB)
    lane = Lane(A, held, behind=0)
    lane.begin_catching_up(100)
    lane.found([Place(n, 1, n) for n in range(1, 101)], all_of_them=True)
    assert held.bytes == 100 * PLACE_BYTES
    lane.caught_up_with(60)
    assert held.bytes == 40 * PLACE_BYTES
    lane.caught_up_with(40)
    assert (lane.behind, held.bytes) == (None, 0)


async def test_what_is_too_large_to_wait_arrives_all_the_same(database: Database) -> None:
    """Events and kept units of one that is slow, in their order, in loads that the memory has room for."""
    process = await Process.open(database, most_bytes=4 * SCARCE_BYTES)
    sender, outbox = process.outbound.sender, process.outbound.outbox
    room = await process.room_with(A, B)
    process.others.held[A] = Deferred()
    said = [f"{number:02}{'x' * 20_000}" for number in range(20)]
    await process.say(room, *said)
    content = "x" * 50_000
    await outbox.keep([OutgoingEdu(A, "m.test", {"n": n, "": content}) for n in range(10)])
    await process.until(lambda: process.others.in_flight.get(A) == 1)
    await process.until(lambda: process.outbound.feed._progress.taken == process.engine.stream.position)
    assert sender.weight <= 4 * SCARCE_BYTES
    process.others.held.pop(A).callback(None)
    await process.settle()
    assert process.others.bodies(A) == process.others.bodies(B) == said
    assert [content["n"] for content in process.others.edus(A)] == list(range(10))
    received = process.others.received[A]
    assert max(sum(len(b) for b in each.bodies) + 50_000 * len(each.edus) for each in received) < 150_000
    assert sender.weight == 0
    await process.stop()


async def test_an_event_that_finds_the_memory_full_reaches_an_idle_server(database: Database) -> None:
    """It is read back at once."""
    process = await Process.open(database, most_bytes=4 * KIB)
    slow, other = await process.room_with(A), await process.room_with(B)
    sender, taken = process.outbound.sender, process.outbound.feed._progress
    process.others.held[A] = Deferred()
    await process.say(slow, "x" * 3000)
    await process.until(lambda: process.others.in_flight.get(A) == 1)
    assert sender._held.bytes >= sender._held.most
    await process.say(other, "hello")
    await process.until(lambda: taken.taken == process.engine.stream.position and B not in sender._busy)
    assert process.others.bodies(B) == ["hello"]
    process.others.held.pop(A).callback(None)
    await process.settle()
    assert sender.weight == 0
    await process.stop()


async def test_nothing_is_held_of_servers_that_others_serve(database: Database) -> None:
    """Though one of them was being sent to when they were lost, were regained, and lost again."""
    process = await Process.open(database)
    sender = process.outbound.sender
    room = await process.room_with(A)
    held = process.others.held[A] = Deferred()
    for body in ("first", "second"):
        await process.say(room, body)
        await process.until(lambda: process.others.in_flight.get(A) == 1)
        await process.until(lambda: process.outbound.feed._progress.taken == process.engine.stream.position)
        assert sender.weight
        sender.drop(range(64))
        sender.serve(range(64))
    held.callback(None)
    await process.until(lambda: not sender._busy)
    assert sender.weight == 0
    await process.stop()


async def test_no_more_kept_units_are_read_than_there_is_room_for(database: Database) -> None:
    store = OutgoingEduStore(database)
    process = await Process.open(database)
    process.others.away.add(A)
    await process.outbound.outbox.keep([OutgoingEdu(A, "m.test", {"": "x" * 1000}) for _ in range(5)])
    await process.settle()
    found = {most: await store.first(A, 100, most) for most in (1, 1500, 2500, 10_000)}
    assert {most: (len(each.edus), each.more) for most, each in found.items()} == {
        1: (1, True),
        1500: (2, True),
        2500: (3, True),
        10_000: (5, False),
    }
    assert (await store.first(A, 5, 10_000)).more
    assert await store.first(B, 5, 10_000) == ([], False)
    await process.stop()
