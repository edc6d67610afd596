# SPDX-License-Identifier: Apache-2.0
"""Pages of call history, what is told since one, and who may see what."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.calls.history import history
from tests.calls.history.history_site import HistorySite
from tests.rooms.services_fixture import User, alice, bob, carol


async def walk(site: HistorySite, who: User, **query: str) -> list[Any]:
    """Every page's calls."""
    found: list[Any] = []
    page = await site.history(who, **query)
    while True:
        found += page["calls"]
        if "next_batch" not in page:
            return found
        page = await site.history(who, **{**query, "from": page["next_batch"]})


@pytest.mark.parametrize("window", [300, 4])
async def test_pages_are_the_whole_in_pieces(
    site: HistorySite, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """However small the pages and the windows they are read in; calls that come meanwhile move nothing."""
    first, second = await site.group_room(bob), await site.group_room(bob)
    for n in range(6):
        room_id = (first, second)[n % 2]
        await site.converse(room_id, f"c{n}")
        await site.enter(alice, room_id)
        site.pass_time(5)
        await site.say(bob, room_id, "invite", f"within{n}")  # within the group call, missed after it
        await site.enter(bob, room_id)
        await site.go(alice, room_id)
        site.pass_time(5)
        await site.go(bob, room_id)
        site.pass_time(100)
    whole = await site.calls(alice, limit="100")
    assert len(whole) == 18
    assert [call["started_ts"] for call in whole] == sorted((c["started_ts"] for c in whole), reverse=True)
    monkeypatch.setattr(history, "WINDOW", window)
    for limit in ("1", "2", "5"):
        assert await walk(site, alice, limit=limit) == whole
    page = await site.history(alice, limit="5")
    await site.converse(first, "new")
    rest = await site.history(alice, limit="100", **{"from": page["next_batch"]})
    if window == 300:
        assert page["calls"] + rest["calls"] == whole
    missed = [call for call in whole if call["outcome"] == "missed"]
    assert len(missed) == 6
    assert await walk(site, alice, outcome="missed", limit="2") == missed


async def test_what_was_missed_since(site: HistorySite) -> None:
    """Each call is told once: when it has begun since, or when one that was open then has come to its end."""
    room_id = await site.group_room(bob)
    await site.converse(room_id, "before")
    await site.say(alice, room_id, "invite", "ringing")
    page = await site.history(bob)
    assert [call["call_id"] for call in page["calls"]] == ["ringing", "before"]

    async def since(token: str, **query: str) -> tuple[list[str], str]:
        answer = await site.history(bob, since=token, **query)
        return [call["call_id"] for call in answer["calls"]], answer["since"]

    told, token = await since(page["since"])
    assert told == []
    await site.say(alice, room_id, "hangup", "ringing")
    assert (await since(token, outcome="missed"))[0] == ["ringing"]
    assert (await since(token, outcome="answered"))[0] == []
    told, token = await since(token)
    assert told == ["ringing"]
    assert (await since(token))[0] == []
    await site.converse(room_id, "answered")
    await site.enter(alice, room_id, "group")
    assert (await since(token, outcome="missed"))[0] == []
    told, token = await since(token)
    assert told == ["group", "answered"]
    await site.say(alice, room_id, "invite", "open")
    told, token = await since(token)
    assert told == ["open"]
    await site.go(alice, room_id)
    site.pass_time(100)
    told, token = await since(token)
    assert sorted(told) == ["group", "open"]
    assert await since(token) == ([], token)


async def test_nobody_learns_of_calls_they_may_not_see(site: HistorySite) -> None:
    """Not of those before they came, nor after they left, nor of rooms they have forgotten, nor of other rooms."""
    room_id = await site.group_room(bob)
    await site.converse(room_id, "before")
    await site.enter(alice, room_id)
    await site.house.rooms.joining.join(carol, room_id)
    assert await site.calls(carol) == []
    await site.go(alice, room_id)
    await site.converse(room_id, "between")
    site.pass_time(100)
    await site.say(alice, room_id, "invite", "open")
    await site.house.rooms.leaving.leave(carol, room_id)
    await site.say(bob, room_id, "answer", "open")
    await site.converse(room_id, "after")
    site.pass_time(100)
    assert [(call["call_id"], call["outcome"]) for call in await site.calls(carol)] == [
        ("open", "missed"),  # that Bob took it was said when Carol was gone
        ("between", "answered_elsewhere"),
    ]
    await site.house.rooms.forgetting.forget(carol, room_id)
    assert await site.calls(carol) == []


async def test_calls_of_ignored_users(site: HistorySite) -> None:
    """They did not ring either."""
    room_id = await site.house.public(bob)
    await site.say(bob, room_id, "invite", "c1")
    site.ignored.add(bob.user_id)
    assert await site.calls(alice) == []


async def test_what_cannot_be_asked(site: HistorySite) -> None:
    """Tokens that are none, wrong numbers and names; nobody without a token."""
    assert (await site.ask(None)).status == 401
    for name, value in (
        ("from", "x"),
        ("from", "h0"),
        ("from", "h-1"),
        ("from", "n5"),
        ("since", "h5"),
        ("since", "n5_1"),
        ("since", "n5" + "_1-1" * 21),
        ("since", "n" + "9" * 19),
        ("limit", "0"),
        ("limit", "many"),
        ("outcome", "unknown"),
    ):
        answer = await site.ask("alice", **{name: value})
        assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM"), (name, value)
    assert await site.history(alice, since="n999999999999999999_5-5", limit="1000") == {
        "calls": [],
        "since": "n999999999999999999",
    }


async def test_events_too_large_are_passed_over(site: HistorySite) -> None:
    """Whoever writes them hides their own calls, and makes nobody's page dear."""
    room_id = await site.house.public(bob)
    await site.say(bob, room_id, "invite", "c1", offer={"type": "offer", "sdp": "x" * 40_000})
    await site.converse(room_id, "c2")
    assert [call["call_id"] for call in await site.calls(alice)] == ["c2"]


async def test_the_indexes_serve_the_queries(site: HistorySite) -> None:
    """A page costs by the calls there are, not by the messages."""
    rows = await site.database.fetch(
        "plan",
        """EXPLAIN SELECT 1 FROM events c WHERE c.room = 1 AND c.type IN ('m.call.member',
        'org.matrix.msc3401.call.member') AND c.type = 'm.call.member' AND c.state_key = 'x' AND c.position < 5
        ORDER BY c.position DESC LIMIT 1""",
    )
    assert "events_of_call_members" in str(rows)
