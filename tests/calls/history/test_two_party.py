# SPDX-License-Identifier: Apache-2.0
"""Calls by invite and answer, as each side's history tells them."""

from __future__ import annotations

from typing import Any

from tests.calls.history.history_site import START, VIDEO, HistorySite
from tests.rooms.services_fixture import User, alice, bob, carol


async def outcomes(site: HistorySite, *people: Any) -> list[tuple[str, str | None]]:
    """State and outcome of the newest call, as each of them sees it."""
    newest = [(await site.calls(who))[0] for who in people or (alice, bob)]
    return [(call["state"], call.get("outcome")) for call in newest]


async def test_a_conversation(site: HistorySite) -> None:
    """Everything that is told of an answered call, from both ends."""
    room_id = await site.house.public(bob)
    invite = await site.say(alice, room_id, "invite", "c1", offer=VIDEO)
    assert await outcomes(site) == [("ringing", None)] * 2
    site.pass_time(5)
    await site.say(bob, room_id, "answer", "c1")
    await site.say(alice, room_id, "select_answer", "c1", selected_party_id=bob.user_id)
    assert await outcomes(site) == [("ongoing", "answered")] * 2
    site.pass_time(30)
    await site.say(bob, room_id, "hangup", "c1", reason="user_hangup")
    told = await site.calls(alice)
    assert told == [
        {
            "call_id": "c1",
            "event_id": invite,
            "room_id": room_id,
            "kind": "video",
            "direction": "outgoing",
            "peer": bob.user_id,
            "state": "ended",
            "outcome": "answered",
            "reason": "user_hangup",
            "started_ts": START,
            "answered_ts": START + 5_000,
            "ended_ts": START + 35_000,
            "duration_ms": 30_000,
        }
    ]
    assert await site.calls(bob) == [{**told[0], "direction": "incoming", "peer": alice.user_id}]


ENDINGS: tuple[tuple[list[tuple[User, str, dict[str, Any]]], str, str | None], ...] = (
    ([], "missed", None),
    ([(alice, "hangup", {"reason": "invite_timeout"})], "missed", "invite_timeout"),
    ([(alice, "hangup", {})], "missed", None),
    ([(bob, "reject", {})], "declined", None),
    ([(bob, "hangup", {"version": 0})], "declined", None),
    ([(bob, "hangup", {"reason": "user_busy"})], "declined", "user_busy"),
    ([(bob, "hangup", {"reason": "user_media_failed"})], "failed", "user_media_failed"),
    ([(alice, "hangup", {"reason": "ice_failed"})], "failed", "ice_failed"),
    ([(bob, "answer", {}), (alice, "hangup", {"reason": "ice_failed"})], "failed", "ice_failed"),
    ([(bob, "answer", {}), (alice, "hangup", {"reason": "ice_timeout"})], "answered", "ice_timeout"),
    ([(bob, "answer", {}), (bob, "reject", {})], "answered", None),
    ([(alice, "reject", {}), (alice, "answer", {})], "missed", None),
    ([(alice, "hangup", {"reason": 5}), (bob, "answer", {})], "missed", None),
    ([(bob, "answer", {"call_id": 7}), (bob, "reject", {"call_id": "x"})], "missed", None),
)
"""What happens to a call of Alice's, and what both are told of it."""


async def test_how_a_call_can_end(site: HistorySite) -> None:
    """What both ends are told, a while later."""
    room_id = await site.house.public(bob)
    for number, (steps, expected, reason) in enumerate(ENDINGS):
        begun = site.now
        await site.say(alice, room_id, "invite", f"c{number}")
        for who, verb, content in steps:
            site.pass_time(2)
            await site.say(who, room_id, verb, f"c{number}", **content)
        site.pass_time(100_000)
        assert await outcomes(site) == [("ended", expected)] * 2, steps
        call = (await site.calls(bob, limit="1"))[0]
        assert call.get("reason") == reason
        assert (await site.calls(alice, limit="1"))[0]["peer"] == bob.user_id
        if not steps:
            assert call["ended_ts"] == begun + 60_000


async def test_answered_by_another(site: HistorySite) -> None:
    """In a room of three, who did not take the call sees that somebody did; the caller chose whom."""
    room_id = await site.house.public(bob, carol)
    await site.say(alice, room_id, "invite", "c1")
    await site.say(bob, room_id, "answer", "c1")
    await site.say(carol, room_id, "answer", "c1")
    await site.say(alice, room_id, "select_answer", "c1", selected_party_id=carol.user_id)
    await site.say(bob, room_id, "hangup", "c1")
    site.pass_time(10)
    await site.say(carol, room_id, "hangup", "c1")
    assert await outcomes(site, alice, bob, carol) == [
        ("ended", "answered"),
        ("ended", "answered_elsewhere"),
        ("ended", "answered"),
    ]
    assert (await site.calls(alice))[0]["peer"] == carol.user_id
    assert "duration_ms" not in (await site.calls(bob))[0]


async def test_another_devices_answer(site: HistorySite) -> None:
    """For the user the call was answered, on whichever device."""
    room_id = await site.house.public(bob)
    await site.say(alice, room_id, "invite", "c1")
    await site.say(bob, room_id, "answer", "c1", party_id="laptop")
    await site.say(bob, room_id, "answer", "c1", party_id="phone")
    await site.say(alice, room_id, "select_answer", "c1", selected_party_id="phone")
    await site.say(bob, room_id, "reject", "c1", party_id="tablet")
    assert await outcomes(site) == [("ongoing", "answered")] * 2


async def test_a_call_for_somebody_else(site: HistorySite) -> None:
    """An invite that names its invitee concerns nobody else; one refusal among several ends the call for one."""
    room_id = await site.house.public(bob, carol)
    await site.say(alice, room_id, "invite", "c1", invitee=bob.user_id)
    assert (await site.calls(alice))[0]["peer"] == bob.user_id
    assert len(await site.calls(bob)) == 1
    assert await site.calls(carol) == []
    await site.say(alice, room_id, "invite", "c2")
    await site.say(bob, room_id, "reject", "c2")
    assert await outcomes(site, alice, bob, carol) == [
        ("ended", "declined"),
        ("ended", "declined"),
        ("ringing", None),
    ]


async def test_glare(site: HistorySite) -> None:
    """Two who call each other at once have made one call: the one with the lesser id, which was answered."""
    for first, second in (("a", "b"), ("b", "a")):
        await glare(site, first, second)


async def glare(site: HistorySite, first: str, second: str) -> None:
    """In a room of its own, Alice's invite first."""
    room_id = await site.house.public(bob)
    await site.say(alice, room_id, "invite", first)
    site.pass_time(1)
    await site.say(bob, room_id, "invite", second)
    winner, loser = (alice, bob) if first == "a" else (bob, alice)
    await site.say(loser, room_id, "hangup", "b", reason="user_hangup")
    await site.say(loser, room_id, "answer", "a")
    site.pass_time(10)
    await site.say(winner, room_id, "hangup", "a")
    for who in (winner, loser):
        (call,) = [each for each in await site.calls(who) if each["room_id"] == room_id]
        assert (call["call_id"], call["outcome"]) == ("a", "answered")
        assert call["direction"] == ("outgoing" if who is winner else "incoming")
    await site.say(loser, room_id, "invite", "z")  # long after: a call of its own
    assert (await site.calls(winner))[0]["call_id"] == "z"
    await site.say(loser, room_id, "hangup", "z")


async def test_a_clock_that_goes_wrong_rings_no_day(site: HistorySite) -> None:
    """An invite from a future far off is a call that was missed, and a long lifetime is cut."""
    room_id = await site.house.public(bob)
    site.pass_time(3_600)
    await site.say(alice, room_id, "invite", "c1", lifetime=10**12)
    site.pass_time(-3_600)
    assert await outcomes(site) == [("ended", "missed")] * 2
    site.pass_time(3_600 + 599)
    assert await outcomes(site) == [("ringing", None)] * 2
    site.pass_time(2)
    assert await outcomes(site) == [("ended", "missed")] * 2
