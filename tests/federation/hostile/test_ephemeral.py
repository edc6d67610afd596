# SPDX-License-Identifier: Apache-2.0
"""Ephemeral units from a hostile server: in other users' names, for rooms it is not in, and of no form at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.federation.hostile.battlefield import OurRoom
from tests.federation.hostile.conftest import Raise
from tests.federation.hostile.hostile_server import HostileServer, Json, segment
from tests.federation.servers import now_ms
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.people import Person


def typing(room_id: str, user_id: str) -> Json:
    return {"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": user_id, "typing": True}}


def receipt(room_id: str, user_id: str, event_id: str) -> Json:
    data = {"data": {"ts": now_ms()}, "event_ids": [event_id]}
    return {"edu_type": "m.receipt", "content": {room_id: {"m.read": {user_id: data}}}}


def presence(user_id: str) -> Json:
    return {"edu_type": "m.presence", "content": {"push": [{"user_id": user_id, "presence": "online"}]}}


def test_advisory_18_in_the_names_of_others(alice: Person, rising: Raise, lares: LaresServer) -> None:
    """Typing, receipts, presence, messages and device lists of users of ours and of third servers change nothing."""
    hostile, third = rising("localhost"), rising("localhost")
    victim = lares.register(f"victim{id(hostile) % 10**9}")
    room = OurRoom(alice, hostile)
    OurRoom(alice, third, visited=room.id)
    victim.join(room.id)
    private = victim.create_room(preset="private_chat")
    secret, said = victim.say(private, "private"), victim.say(room.id, "said")
    alice.hears(room.id, "said")
    edus: list[Json] = [typing(private, hostile.bob), receipt(private, hostile.bob, secret)]
    for user in (victim.user_id, alice.user_id, third.bob):
        edus += [
            typing(room.id, user),
            receipt(room.id, user, said),
            presence(user),
            {
                "edu_type": "m.device_list_update",
                "content": {"user_id": user, "device_id": "EVIL", "stream_id": 1, "keys": {}},
            },
            {"edu_type": "m.signing_key_update", "content": {"user_id": user, "master_key": {}}},
            {
                "edu_type": "m.direct_to_device",
                "content": {
                    "sender": user,
                    "type": "m.evil",
                    "message_id": "1",
                    "messages": {alice.user_id: {"*": {"x": 1}}},
                },
            },
        ]
    assert hostile.transaction([], edus).status == 200
    assert hostile.transaction([], [receipt(room.id, hostile.bob, said)]).status == 200
    alice.until(lambda me: (hostile.bob, "m.read") in me.joined[room.id].receipts, "the honest receipt")
    assert {user for user, _ in alice.joined[room.id].receipts} == {hostile.bob}
    assert alice.joined[room.id].typing == []
    assert not alice.to_device
    assert third.bob not in alice.presence
    room.goes_on()


def test_advisory_18_receipts_for_what_one_cannot_see(alice: Person, rising: Raise) -> None:
    """For events that are nowhere, of other rooms, or of before one was there; in any number."""
    hostile = rising("localhost")
    room, other = OurRoom(alice, hostile), alice.create_room()
    foreign = alice.say(other, "elsewhere")
    bob = hostile.bob
    edus = [
        receipt(room.id, bob, foreign),
        receipt(room.id, bob, "$" + "n" * 43),
        receipt(room.id, f"@nobody:{hostile.name}", room.latest[0].event.event_id),
        receipt(other, bob, foreign),
        {"edu_type": "m.receipt", "content": {f"!r{n}:x": {"m.read": {bob: {}}} for n in range(2_000)}},
        {"edu_type": "m.receipt", "content": {room.id: {f"m.kind{n}": {bob: {}} for n in range(2_000)}}},
    ]
    assert hostile.transaction([], edus).status == 200
    room.goes_on()
    assert not alice.joined[room.id].receipts or foreign not in alice.joined[room.id].receipts.values()


KINDS = (
    "m.typing",
    "m.receipt",
    "m.presence",
    "m.device_list_update",
    "m.signing_key_update",
    "m.direct_to_device",
    "org.example.unknown",
)
CONTENTS: dict[str, Callable[[HostileServer], Any]] = {
    "none": lambda hostile: None,
    "a list": lambda hostile: [],
    "empty": lambda hostile: {},
    "wrong types": lambda hostile: {
        "room_id": 1,
        "user_id": {},
        "typing": "x",
        "push": 7,
        "messages": [],
        "sender": [],
        "stream_id": "x",
    },
    "wrong types within": lambda hostile: {
        "push": [None, {"user_id": hostile.bob, "presence": {}, "last_active_ago": -(2**80)}],
        "!room:x": {"m.read": {hostile.bob: {"event_ids": {}, "data": {"ts": "x"}}}},
        "messages": {"@a:b": {"*": 7}},
        "user_id": hostile.bob,
        "device_id": "x" * 70_000,
        "stream_id": 2**80,
        "prev_id": ["x", 2**70],
        "keys": {"user_id": 1},
    },
    "text without a form": lambda hostile: {
        "user_id": "@\0:x",
        "room_id": "!\0",
        "sender": "\0",
        "push": ["\0"],
    },
}


@pytest.mark.parametrize("content", CONTENTS)
def test_units_of_no_form(alice: Person, hostile: HostileServer, content: str) -> None:
    """They are dropped, and what stands beside them in the transaction counts."""
    room = OurRoom(alice, hostile)
    edus: list[Any] = [{"edu_type": kind, "content": CONTENTS[content](hostile)} for kind in KINDS]
    edus += [None, 7, [], {}, {"edu_type": 7}, {"edu_type": "m.typing"}]
    edus.append(typing(room.id, hostile.bob))
    answer = hostile.transaction([], edus)
    assert answer.status in {200, 400}, answer
    if answer.status == 400:
        assert hostile.transaction([], edus[:-7] + edus[-1:]).status == 200
    alice.until(lambda me: hostile.bob in me.joined[room.id].typing, "bob's typing")
    room.goes_on()


def test_advisory_19_an_access_list_that_would_take_for_ever(alice: Person, hostile: HostileServer) -> None:
    """However odd a list is, it is read in time, and one without any sense lets nobody in who should not be."""
    room = OurRoom(alice, hostile)
    power = alice.call("GET", f"v3/rooms/{segment(room.id)}/state/m.room.power_levels")
    alice.set_state(
        room.id, "m.room.power_levels", {**power, "users": {alice.user_id: 100, hostile.mallory: 100}}
    )
    room = OurRoom(alice, hostile, visited=room.id)
    globs = ["*a" * 100 + "b", "?*" * 120 + "#", "*" * 250 + "#", "[" * 200, "\\" * 100]
    odd: list[Json] = [
        {"allow": ["*", *globs * 20], "deny": [*globs * 20, 7, None]},
        {"allow": ["*"], "deny": ["x" * 200 + "*"] * 250},
        {"allow": ["*"], "deny": {"x": 1}, "allow_ip_literals": "yes"},
    ]
    for content in odd:
        event = room.send("m.room.server_acl", content, "", sender=hostile.mallory)
        assert hostile.send(event) == {event.event.event_id: {}}
        room.goes_on()
