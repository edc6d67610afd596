# SPDX-License-Identifier: Apache-2.0
"""What a hostile server tells when it is asked: about events that are missing, about the state, about the past."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from homeserver.protocol.building import BuiltEvent
from tests.federation.hostile.battlefield import OurRoom, TheirRoom, forged, goes_on, unseen
from tests.federation.hostile.conftest import Raise
from tests.federation.hostile.hostile_server import V1, Connection, HostileServer, Json
from tests.federation.inbound.telling import Telling
from tests.federation.servers import Received
from tests.interop.federation.people import Person

BAD = "never to be seen"
QUESTIONS = ("/get_missing_events/", "/state_ids/", "/state/", "/event/", "/event_auth/", "/backfill/")


def entered(alice: Person, hostile: HostileServer, version: str = "11") -> TheirRoom:
    """A room of theirs that our user is in."""
    room = TheirRoom(hostile, version)
    alice.join(room.id, hostile.name)
    room.goes_on(alice)
    return room


def strangers(room: TheirRoom, number: int) -> list[Json]:
    """Events of the room that nobody asked for."""
    return [
        room.event("m.room.message", {"body": f"{BAD} {n}"}, sender=room.hostile.mallory).event.pdu
        for n in range(number)
    ]


def forgeries(room: TheirRoom, alice: Person) -> list[Json]:
    """Events in the name of our user, unsigned ones, changed ones, and ones of another room."""
    good = room.event("m.room.message", {"body": BAD}, sender=room.hostile.mallory).event.pdu
    return [
        room.event("m.room.message", {"body": BAD}, sender=alice.user_id).event.pdu,
        {**good, "signatures": {}},
        {**good, "content": {"body": BAD + "!"}},
        {**good, "depth": 2**80},
        forged(room, good, room_id="!other:localhost"),
        TheirRoom(room.hostile).event("m.room.message", {"body": BAD}).event.pdu,
    ]


LIES: dict[str, Callable[[TheirRoom, Person], Any]] = {
    "nothing": lambda room, alice: {},
    "no events": lambda room, alice: {"events": [], "pdus": [], "pdu_ids": [], "auth_chain_ids": []},
    "no lists": lambda room, alice: {"events": {}, "pdus": "x", "pdu_ids": 7, "auth_chain": None},
    "no ids": lambda room, alice: {"pdu_ids": [None, {}, "\0", "x" * 300], "auth_chain_ids": [[]]},
    "a thousand strangers": lambda room, alice: {"events": (some := strangers(room, 1_000)), "pdus": some},
    "forgeries": lambda room, alice: {
        "events": (some := forgeries(room, alice)),
        "pdus": some,
        "auth_chain": some,
    },
    "ids without end": lambda room, alice: {
        "pdu_ids": [f"${n:043}" for n in range(50_000)],
        "auth_chain_ids": [f"${n:042}a" for n in range(50_000)],
    },
}


@pytest.mark.parametrize("lie", LIES)
def test_advisory_14_answers_about_missing_events(alice: Person, hostile: HostileServer, lie: str) -> None:
    """Whatever is answered, it is asked for a bounded number of times, and the room goes on."""
    room = entered(alice, hostile)
    answer = LIES[lie](room, alice)
    for method, path in (
        ("POST", "get_missing_events/{room}"),
        ("GET", "state_ids/{room}"),
        ("GET", "state/{room}"),
        ("GET", "event/{event}"),
        ("GET", "event_auth/{room}/{event}"),
    ):
        hostile.on(method, f"{V1}/{path}", lambda request: answer)
    before = hostile.asked(*QUESTIONS)
    unknown = room.event("m.room.message", {"body": "unknown"}, sender=hostile.mallory)
    late = room.event("m.room.message", {"body": BAD}, sender=hostile.mallory, prev=[unknown])
    hostile.transaction([late.event.pdu])
    room.goes_on(alice)
    unseen(room, alice, f"{BAD} ", f"{BAD}!")
    assert hostile.asked(*QUESTIONS) - before <= 500


def test_advisory_14_a_gap_that_is_filled_with_forgeries(alice: Person, hostile: HostileServer) -> None:
    """Of what comes for a gap, each event is checked as any other: those that are forged are not in the room."""
    room = entered(alice, hostile)
    kind = room.send("m.room.message", {"body": "in between"}, sender=hostile.mallory)
    forgery = room.event("m.room.message", {"body": BAD}, sender=alice.user_id)
    last = room.event("m.room.message", {"body": "at last"}, sender=hostile.bob, prev=[kind, forgery])
    Telling({built.event.event_id: built.event for built in (*room.events.values(), forgery)}).serve(hostile)
    hostile.send(last)
    room.goes_on(alice)
    unseen(room, alice, BAD)


def test_advisory_12_state_that_was_rejected(alice: Person, hostile: HostileServer) -> None:
    """Told as part of the state before an event, it is no state for that."""
    room = entered(alice, hostile)
    before = alice.state(room.id)
    mallory = hostile.mallory
    coup = room.event("m.room.power_levels", {"users": {mallory: 100}}, "", sender=mallory)
    hostile.send(coup)
    lost = room.event("m.room.message", {"body": "lost"}, sender=mallory)
    topic = room.event("m.room.topic", {"topic": BAD}, "", sender=mallory, prev=[*room.latest, lost])
    state = {**room.state, coup.event.state_tuple: coup}
    ids = [built.event.event_id for built in state.values()]
    hostile.on("GET", f"{V1}/state_ids/{{room}}", lambda request: {"pdu_ids": ids, "auth_chain_ids": ids})
    hostile.transaction([topic.event.pdu])
    room.goes_on(alice)
    unseen(room, alice, BAD)
    assert alice.state(room.id) == before


@pytest.mark.parametrize("version", ["2", "11", "12"])
def test_advisory_27_a_state_of_better_days(alice: Person, hostile: HostileServer, version: str) -> None:
    """Who had power once does not get it back by telling the state of that time as the one before a new event."""
    room = entered(alice, hostile, version)
    mallory, creator = hostile.mallory, hostile.user()
    users = {} if room.version.privileged_creators else {creator: 100}
    up = room.send("m.room.power_levels", {"users": {**users, mallory: 50}}, "")
    old = [built.event.event_id for built in room.state.values()]
    down = room.send("m.room.power_levels", {"users": users}, "")
    hostile.send(up, down)
    room.goes_on(alice)
    levels = alice.state(room.id)["m.room.power_levels", ""]
    lost = room.event("m.room.message", {"body": "lost"}, sender=mallory)
    new = room.event("m.room.message", {"body": "new"}, sender=mallory, prev=[*room.latest, lost])
    hostile.on("GET", f"{V1}/state_ids/{{room}}", lambda request: {"pdu_ids": old, "auth_chain_ids": []})
    hostile.transaction([new.event.pdu])
    room.goes_on(alice)
    assert alice.state(room.id)["m.room.power_levels", ""] == levels == down.event.event_id


def test_advisory_20_events_that_lack_everything(alice: Person, rising: Raise) -> None:
    """Each names twenty events that are nowhere: asking for them ends, and nobody else's events wait for that."""
    hostile, honest = rising("localhost"), rising("localhost")
    flooded = OurRoom(alice, hostile)
    room = OurRoom(alice, honest, visited=flooded.id)
    numbers = count(1)

    def lacking() -> Json:
        pdu = flooded.event("m.room.message", {"body": BAD}, sender=hostile.mallory).event.pdu
        return forged(flooded, pdu, prev_events=[f"${next(numbers):043}" for _ in range(20)])

    before = hostile.asked(*QUESTIONS)
    for _ in range(4):
        assert hostile.transaction([lacking() for _ in range(50)]).status == 200
        room.goes_on()
    assert hostile.asked(*QUESTIONS) - before < 2_000
    assert honest.asked(*QUESTIONS) < 2_000
    unseen(room, alice, BAD)


def test_advisory_20_a_past_without_end(alice: Person, hostile: HostileServer) -> None:
    """For every event told there is one more before it: asking ends, and the room goes on."""
    room = entered(alice, hostile)
    template = room.event("m.room.message", {"body": "on and on"}, sender=hostile.mallory).event.pdu

    def more(request: Received) -> Any:
        told: list[Json] = []
        for _ in range(50):
            before = invented(told[-1:] or request.json["latest_events"])
            told.append(before)
        return {"events": told}

    def invented(after: list[Any]) -> Json:
        return forged(room, template, depth=50, prev_events=["$" + f"{hash(str(after)) % 10**40:043}"])

    hostile.on("POST", f"{V1}/get_missing_events/{{room}}", more)
    before = hostile.asked(*QUESTIONS)
    hostile.transaction([forged(room, template, depth=60, prev_events=["$" + "z" * 43])])
    room.goes_on(alice)
    assert hostile.asked(*QUESTIONS) - before <= 500


@pytest.mark.parametrize("lie", LIES)
def test_advisory_31_a_past_of_lies(alice: Person, hostile: HostileServer, lie: str) -> None:
    """Paging back ends at the gap or goes beyond it; it neither fails nor shows what is forged."""
    room = TheirRoom(hostile)
    for number in range(5):
        room.send("m.room.message", {"body": f"past {number}"}, sender=hostile.bob)
    alice.join(room.id, hostile.name)
    answer = LIES[lie](room, alice)
    hostile.on("GET", f"{V1}/backfill/{{room}}", lambda request: answer)
    hostile.on("GET", f"{V1}/event_auth/{{room}}/{{event}}", lambda request: answer)
    before = hostile.asked(*QUESTIONS)
    pages, token = 0, dict[str, str]()
    while pages < 20:
        page = alice.messages(room.id, limit=5, **token)
        pages += 1
        assert BAD not in str(page["chunk"]) or lie == "a thousand strangers"
        if "end" not in page:
            break
        token = {"from": page["end"]}
    assert pages < 20 and hostile.asked(*QUESTIONS) - before <= 500
    room.goes_on(alice)


def test_advisory_31_a_past_that_is_rejected(alice: Person, hostile: HostileServer) -> None:
    """A page of nothing but events that are refused does not end the paging: what lies before is reached."""
    room = TheirRoom(hostile)
    room.send("m.room.message", {"body": "the first"}, sender=hostile.bob)
    outsider = hostile.user("outsider")
    for number in range(120):
        room.add(room.event("m.room.message", {"body": f"{BAD} {number}"}, sender=outsider))
    alice.join(room.id, hostile.name)
    past = sorted(room.events.values(), key=lambda built: -built.event.depth)
    hostile.on("GET", f"{V1}/backfill/{{room}}", lambda request: _page(past, request))
    Telling({built.event.event_id: built.event for built in past}).serve(hostile)
    shown = [event["content"].get("body") for event in alice.history(room.id, limit=20)]
    assert not any(body is not None and body.startswith(BAD) for body in shown)
    assert "the first" in shown
    room.goes_on(alice)


def _page(past: list[BuiltEvent], request: Received) -> Any:
    """Up to `limit` events from those named on, newest first."""
    named = [built.event.depth for built in past if built.event.event_id in request.query["v"]]
    limit = min(int(request.query["limit"][0]), 50)
    return {"pdus": [built.event.pdu for built in past if built.event.depth <= max(named, default=0)][:limit]}


def test_answers_that_never_come(alice: Person, rising: Raise) -> None:
    """A room whose missing events are asked of a silent server goes on for the others in it."""
    silent, hostile = rising("localhost"), rising("localhost")
    room = OurRoom(alice, hostile)
    mute = OurRoom(alice, silent, visited=room.id)

    def never(connection: Connection) -> None:
        connection.ended.wait()

    for method, path in (
        ("POST", "get_missing_events/{room}"),
        ("GET", "state_ids/{room}"),
        ("GET", "event/{event}"),
    ):
        silent.on(method, f"{V1}/{path}", lambda request: never)
    unknown = mute.event("m.room.message", {"body": "unknown"}, sender=silent.mallory)
    for number in range(5):
        late = mute.event(
            "m.room.message", {"body": f"{BAD} {number}"}, sender=silent.mallory, prev=[unknown]
        )
        assert silent.transaction([late.event.pdu]).status == 200
    for _ in range(3):
        goes_on(room, alice, hostile)
    unseen(room, alice, BAD)
