# SPDX-License-Identifier: Apache-2.0
"""Who is answered at all, and which events are whole: the table of standings and history visibilities, per endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from tests.federation.membership_serving.test_restricted_joins import invite
from tests.federation.membership_serving.world import Visitor
from tests.federation.serving.world import SETTINGS, Reading, bodies, leave
from tests.web.loopback import Answer

STANDINGS = ("in", "left", "invited", "never", "shut out")


async def placed(serving: Reading, hydra: Visitor, standing: str, visibility: str) -> tuple[str, str]:
    """A room in which hydra's user stands so, and a message sent before they had anything to do with it."""
    room_id = await serving.room(visibility)
    message = await serving.say(room_id, "early")
    if standing == "invited":
        await invite(serving, room_id, hydra.user_id)
    elif standing != "never":
        assert (await hydra.join(room_id)).status == 200
    if standing == "left":
        await leave(hydra, room_id)
    if standing == "shut out":
        await serving.shut_out(room_id, hydra)
    return room_id, message


async def every_read(serving: Reading, hydra: Visitor, room_id: str, message: str) -> dict[str, Answer]:
    """Each endpoint that reads a room."""
    newest = await serving.newest(room_id)
    missing = {"earliest_events": [], "latest_events": [newest], "limit": 20}
    return {
        "state": await serving.get(hydra, "state", room_id, query=[("event_id", message)]),
        "state_ids": await serving.get(hydra, "state_ids", room_id, query=[("event_id", message)]),
        "event_auth": await serving.get(hydra, "event_auth", room_id, message),
        "backfill": await serving.get(hydra, "backfill", room_id, query=[("v", message), ("limit", "10")]),
        "get_missing_events": await serving.post(hydra, "get_missing_events", room_id, body=missing),
        "timestamp_to_event": await serving.get(
            hydra, "timestamp_to_event", room_id, query=[("ts", "0"), ("dir", "f")]
        ),
    }


@pytest.mark.parametrize("visibility", SETTINGS)
@pytest.mark.parametrize("standing", STANDINGS)
async def test_who_reads_a_room(serving: Reading, hydra: Visitor, standing: str, visibility: str) -> None:
    """Servers in the room do; others are refused in the words that stand for rooms nobody knows, too."""
    room_id, message = await placed(serving, hydra, standing, visibility)
    answers = await every_read(serving, hydra, room_id, message)
    if standing == "in":
        found = {name for name, answer in answers.items() if answer.status == 200}
        assert found == set(answers)
        return
    unknown = await serving.get(hydra, "state", "!nowhere:localhost", query=[("event_id", message)])
    assert unknown.status == 403
    for name, answer in answers.items():
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), name
        if standing != "shut out":
            assert answer.json == unknown.json, name


@pytest.mark.parametrize("visibility", SETTINGS)
@pytest.mark.parametrize("standing", STANDINGS)
async def test_who_gets_an_event(serving: Reading, hydra: Visitor, standing: str, visibility: str) -> None:
    """Whole if it is for the server; redacted if the server must only know its place; else it is not there."""
    _, message = await placed(serving, hydra, standing, visibility)
    answer = await serving.get(hydra, "event", message)
    whole = {
        "world_readable": {"in", "left", "invited", "never"},
        "shared": {"in"},
        "invited": set[str](),
        "joined": set[str](),
    }[visibility]
    if standing in whole:
        assert bodies(answer.json["pdus"]) == ["early"]
        assert set(answer.json) == {"origin", "origin_server_ts", "pdus"}
    elif standing == "in":
        assert bodies(answer.json["pdus"]) == [None]
    else:
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    ("visibility", "early"),
    [("world_readable", "early"), ("shared", "early"), ("invited", None), ("joined", None)],
)
async def test_history_that_is_not_for_the_server_comes_redacted(
    serving: Reading, hydra: Visitor, visibility: str, early: str | None
) -> None:
    """By backfill and by get_missing_events alike; what it may see is not told in another way either."""
    room_id, message = await placed(serving, hydra, "in", visibility)
    late = await serving.say(room_id, "late")
    answer = await serving.get(hydra, "backfill", room_id, query=[("v", late), ("limit", "100")])
    assert bodies(answer.json["pdus"]) == ["late", early]
    answer = await serving.post(
        hydra,
        "get_missing_events",
        room_id,
        body={"earliest_events": [], "latest_events": [late], "limit": 20},
    )
    assert bodies(answer.json["events"]) == [early]
    stored = (await serving.house.engine.events.by_ids((message,)))[message]
    answer = await serving.get(
        hydra,
        "timestamp_to_event",
        room_id,
        query=[("ts", str(stored.origin_server_ts)), ("dir", "f")],
    )
    assert (answer.json["event_id"] == message) is (early is not None)


async def test_advisory_10_members_are_not_listed_to_strangers(serving: Reading, hydra: Visitor) -> None:
    """The members of a room, though world-readable, are in no answer to a server that is not in it."""
    room_id = await serving.room("world_readable")
    message = await serving.say(room_id, "hello")
    for name, answer in (await every_read(serving, hydra, room_id, message)).items():
        assert answer.status == 403, name
        assert b"m.room.member" not in answer.raw, name
        assert b"@alice" not in answer.raw, name


async def test_advisory_13_auth_events_are_not_for_servers_outside(
    serving: Reading, hydra: Visitor, other: Visitor
) -> None:
    """Neither by naming the room, nor by naming an event of it under a room that the server is in."""
    room_id = await serving.room("world_readable")
    message = await serving.say(room_id, "hello")
    mine = await serving.room("shared")
    assert (await hydra.join(mine)).status == 200
    assert (await hydra.join(room_id)).status == 200
    assert (await other.join(mine)).status == 200
    assert (await serving.get(hydra, "event_auth", room_id, message)).status == 200
    assert (await serving.get(other, "event_auth", room_id, message)).status == 403
    for name in ("state", "state_ids"):
        answer = await serving.get(other, name, mine, query=[("event_id", message)])
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    answer = await serving.get(other, "event_auth", mine, message)
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    answer = await serving.get(other, "backfill", mine, query=[("v", message), ("limit", "5")])
    assert answer.json["pdus"] == []
    body: dict[str, Any] = {"earliest_events": [], "latest_events": [message]}
    answer = await serving.post(other, "get_missing_events", mine, body=body)
    assert answer.json == {"events": []}
