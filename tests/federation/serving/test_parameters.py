# SPDX-License-Identifier: Apache-2.0
"""What is asked wrongly, or for too much, is refused by name, and never fails inside."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from federation.serving.portions import LargeAnswers
from homeserver.errors import LimitExceeded
from tests.federation.membership_serving.world import Visitor
from tests.federation.serving.world import Reading

ROOM = "ROOM"
EVENT = "EVENT"


@pytest.mark.parametrize(
    ("segments", "query", "refusal"),
    [
        (("backfill", ROOM), [("limit", "5")], (400, "M_MISSING_PARAM")),
        (("backfill", ROOM), [("v", EVENT)], (400, "M_MISSING_PARAM")),
        (("backfill", ROOM), [("v", EVENT), ("limit", "many")], (400, "M_INVALID_PARAM")),
        (("backfill", ROOM), [("v", EVENT), ("limit", "9" * 30)], (400, "M_INVALID_PARAM")),
        (
            ("backfill", ROOM),
            [*(("v", f"$x{n}") for n in range(101)), ("limit", "5")],
            (400, "M_INVALID_PARAM"),
        ),
        (("backfill", ROOM), [("v", "$a\0"), ("limit", "5")], (400, "M_INVALID_PARAM")),
        (("backfill", "ROOM\0"), [("v", EVENT), ("limit", "5")], (400, "M_INVALID_PARAM")),
        (("backfill", "no room"), [("v", EVENT), ("limit", "5")], (403, "M_FORBIDDEN")),
        (("state", ROOM), [], (400, "M_MISSING_PARAM")),
        (("state_ids", ROOM), [("event_id", "$nothing")], (404, "M_NOT_FOUND")),
        (("state", ROOM), [("event_id", "$nothing\0")], (400, "M_INVALID_PARAM")),
        (("event", "nothing"), [], (404, "M_NOT_FOUND")),
        (("event", "$" + "x" * 3000), [], (404, "M_NOT_FOUND")),
        (("event_auth", ROOM, "$nothing"), [], (404, "M_NOT_FOUND")),
        (("timestamp_to_event", ROOM), [("dir", "f")], (400, "M_MISSING_PARAM")),
        (("timestamp_to_event", ROOM), [("ts", "0")], (400, "M_MISSING_PARAM")),
        (("timestamp_to_event", ROOM), [("ts", "0"), ("dir", "up")], (400, "M_INVALID_PARAM")),
        (("timestamp_to_event", ROOM), [("ts", "1.5"), ("dir", "f")], (400, "M_INVALID_PARAM")),
        (("timestamp_to_event", ROOM), [("ts", str(2**53 - 1)), ("dir", "f")], (404, "M_NOT_FOUND")),
        (("timestamp_to_event", ROOM), [("ts", str(1 - 2**53)), ("dir", "b")], (404, "M_NOT_FOUND")),
        (("hierarchy", ROOM), [("suggested_only", "perhaps")], (400, "M_INVALID_PARAM")),
        (("hierarchy", "!nowhere:localhost"), [], (404, "M_NOT_FOUND")),
        (("publicRooms",), [("since", "junk")], (400, "M_INVALID_PARAM")),
        (("publicRooms",), [("limit", "x")], (400, "M_INVALID_PARAM")),
    ],
)
async def test_a_wrong_parameter_is_named(
    serving: Reading,
    hydra: Visitor,
    segments: tuple[str, ...],
    query: list[tuple[str, str]],
    refusal: tuple[int, str],
) -> None:
    """Whatever stands in it."""
    room_id = await serving.room()
    assert (await hydra.join(room_id)).status == 200
    event_id = await serving.newest(room_id)

    def put(text: str) -> str:
        return text.replace(ROOM, room_id).replace(EVENT, event_id)

    answer = await serving.get(
        hydra, *map(put, segments), query=[(name, put(value)) for name, value in query]
    )
    assert (answer.status, answer.errcode) == refusal, answer.raw


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"earliest_events": [], "latest_events": "$x"},
        {"earliest_events": [1], "latest_events": []},
        {"earliest_events": [], "latest_events": [], "limit": "x"},
        {"earliest_events": [], "latest_events": [], "min_depth": 1.5},
        {"earliest_events": ["$x"] * 1001, "latest_events": []},
        {"earliest_events": [], "latest_events": ["$x"] * 1001},
    ],
)
async def test_a_wrong_body_is_named(serving: Reading, hydra: Visitor, body: dict[str, Any]) -> None:
    """Of get_missing_events."""
    room_id = await serving.room()
    assert (await hydra.join(room_id)).status == 200
    answer = await serving.post(hydra, "get_missing_events", room_id, body=body)
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON"), answer.raw


async def test_ids_that_are_none_name_nothing(serving: Reading, hydra: Visitor) -> None:
    """Nor do numbers of any size fail."""
    room_id = await serving.room()
    assert (await hydra.join(room_id)).status == 200
    body = {
        "earliest_events": ["", "$" * 1000],
        "latest_events": ["", "$", "x" * 1000, "$x"],
        "min_depth": -(10**40),
        "limit": 10**40,
    }
    answer = await serving.post(hydra, "get_missing_events", room_id, body=body)
    assert (answer.status, answer.json) == (200, {"events": []}), answer.raw


async def test_requests_are_signed(serving: Reading, hydra: Visitor) -> None:
    """Nothing is told to whom nobody knows."""
    room_id = await serving.room("world_readable")
    event_id = await serving.newest(room_id)
    for target in (
        f"event/{event_id}",
        f"state/{room_id}?event_id={event_id}",
        f"state_ids/{room_id}?event_id={event_id}",
        f"event_auth/{room_id}/{event_id}",
        f"backfill/{room_id}?v={event_id}&limit=5",
        f"timestamp_to_event/{room_id}?ts=0&dir=f",
        f"hierarchy/{room_id}",
        "publicRooms",
        "query/profile?user_id=@alice:localhost",
        "query/directory?room_alias=%23tea:localhost",
        "query/other",
    ):
        answer = await serving.request("GET", f"/_matrix/federation/v1/{target}")
        assert (answer.status, answer.errcode) == (401, "M_UNAUTHORIZED"), target


async def test_one_server_has_its_share_of_large_answers() -> None:
    """Who has ten waiting is told to come again; others are not."""
    large = LargeAnswers()
    held: Deferred[None] = Deferred()

    async def work() -> int:
        await held
        return 1

    waiting = [Deferred.fromCoroutine(large.make("hydra.test", work)) for _ in range(10)]
    with pytest.raises(LimitExceeded):
        await large.make("hydra.test", work)
    another = Deferred.fromCoroutine(large.make("other.test", work))
    held.callback(None)
    assert [await each for each in (*waiting, another)] == [1] * 11
    assert await large.make("hydra.test", work) == 1


async def test_who_goes_away_frees_a_turn() -> None:
    """Whether the answer was being made or waited for."""
    large = LargeAnswers()

    async def never() -> int:
        await Deferred()
        return 0

    async def at_once() -> int:
        return 1

    lost = [Deferred.fromCoroutine(large.make("hydra.test", never)) for _ in range(10)]
    waiting = Deferred.fromCoroutine(large.make("other.test", at_once))
    assert not waiting.called
    for each in reversed(lost):
        each.addErrback(lambda _failure: None)
        each.cancel()
    assert await waiting == 1
    assert await large.make("hydra.test", at_once) == 1
