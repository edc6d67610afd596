# SPDX-License-Identifier: Apache-2.0
"""Group calls, read off the memberships in a room's state."""

from __future__ import annotations

from tests.calls.history.history_site import START, HistorySite
from tests.rooms.services_fixture import alice, bob, carol


async def test_a_session(site: HistorySite) -> None:
    """From the first who comes to the last who goes; who came took part, who did not has missed it."""
    room_id = await site.group_room(bob, carol)
    begun = await site.enter(alice, room_id, **{"m.call.intent": "video"})
    site.pass_time(10)
    await site.enter(bob, room_id)
    (call,) = await site.calls(carol)
    assert (call["state"], call.get("outcome"), call["direction"]) == ("ongoing", None, "incoming")
    site.pass_time(20)
    await site.go(alice, room_id)
    site.pass_time(30)
    await site.go(bob, room_id)
    assert await site.calls(alice) == [
        {
            "call_id": "",
            "event_id": begun,
            "room_id": room_id,
            "kind": "group",
            "intent": "video",
            "direction": "outgoing",
            "state": "ended",
            "outcome": "answered",
            "started_ts": START,
            "answered_ts": START,
            "ended_ts": START + 60_000,
            "duration_ms": 30_000,
            "participants": [alice.user_id, bob.user_id],
            "participant_count": 2,
            "notified": False,
        }
    ]
    assert (await site.calls(bob))[0]["duration_ms"] == 50_000
    (call,) = await site.calls(carol)
    assert (call["state"], call["outcome"]) == ("ended", "missed")
    assert "duration_ms" not in call
    site.pass_time(60)
    await site.enter(carol, room_id)
    assert [each["state"] for each in await site.calls(bob)] == ["ongoing", "ended"]


async def test_a_membership_lapses(site: HistorySite) -> None:
    """Who neither leaves nor renews is gone when the time that was named is over; renewals prolong it."""
    room_id = await site.group_room(bob)
    await site.enter(alice, room_id, expires=60_000)
    site.pass_time(50)
    await site.enter(alice, room_id, expires=120_000, created_ts=START)
    site.pass_time(50)
    assert (await site.calls(bob))[0]["state"] == "ongoing"
    site.pass_time(100)
    (call,) = await site.calls(bob)
    assert (call["state"], call["outcome"], call["ended_ts"]) == ("ended", "missed", START + 120_000)
    await site.enter(alice, room_id, expires=1 << 49)
    site.pass_time(86_399)
    assert (await site.calls(bob))[0]["state"] == "ongoing"
    site.pass_time(2)
    assert (await site.calls(bob))[0]["state"] == "ended"
    # Nobody else came: what one began alone was missed by the others.
    assert (await site.calls(alice))[0]["outcome"] == "missed"


async def test_ringing_and_refusing(site: HistorySite) -> None:
    """A call that rang for the user says so; refusing it is known until the user joins after all."""
    room_id = await site.group_room(bob, carol)
    membership = await site.enter(alice, room_id)
    ring = {
        "notification_type": "ring",
        "m.mentions": {"user_ids": [bob.user_id]},
        "m.relates_to": {"rel_type": "m.reference", "event_id": membership},
    }
    sending = site.house.rooms.sending
    rung = await sending.send(alice, room_id, "org.matrix.msc4075.rtc.notification", ring)
    assert [(await site.calls(who))[0]["notified"] for who in (alice, bob, carol)] == [False, True, False]
    refusal = {"m.relates_to": {"rel_type": "m.reference", "event_id": rung}}
    await sending.send(bob, room_id, "org.matrix.msc4310.rtc.decline", refusal)
    assert (await site.calls(bob))[0]["outcome"] == "declined"
    assert "outcome" not in (await site.calls(carol))[0]
    await site.enter(bob, room_id)
    assert (await site.calls(bob))[0]["outcome"] == "answered"


async def test_calls_side_by_side(site: HistorySite) -> None:
    """Two calls in one room are two, and a device that goes from one to the other leaves the first."""
    room_id = await site.group_room(bob)
    await site.enter(alice, room_id, "one")
    await site.enter(bob, room_id, "two")
    await site.enter(bob, room_id, "one")
    told = {call["call_id"]: call for call in await site.calls(alice)}
    assert [told[each]["state"] for each in ("one", "two")] == ["ongoing", "ended"]
    assert told["one"]["participants"] == [alice.user_id, bob.user_id]


async def test_memberships_of_older_clients(site: HistorySite) -> None:
    """A list of devices under the user's name; an empty one is nobody."""
    room_id = await site.group_room(bob)
    kind, key = "org.matrix.msc3401.call.member", alice.user_id
    await site.house.set(
        alice, room_id, kind, {"memberships": [{"application": "m.call", "call_id": ""}]}, key
    )
    assert (await site.calls(bob))[0]["state"] == "ongoing"
    await site.house.set(alice, room_id, kind, {"memberships": []}, key)
    assert (await site.calls(bob))[0]["state"] == "ended"
    for nonsense in (
        {"memberships": 1},
        {"memberships": [1, {}]},
        {"application": 3, "call_id": [], "expires": "x"},
    ):
        await site.house.set(alice, room_id, kind, nonsense, key)
    assert len(await site.calls(bob)) == 2
