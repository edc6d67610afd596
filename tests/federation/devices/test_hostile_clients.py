# SPDX-License-Identifier: Apache-2.0
"""What a client makes of keys and messages to devices never stops what its server owes to others.

One unit that another server refuses would hold up all behind it: so each is refused here, or can be sent.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from tests.devices.devices_fixture import Device, Identity
from tests.federation.devices.tracking import Owner, Pair, Tracker
from tests.interop.federation.people import Json, Person

ODD: dict[str, Any] = {
    "a float": 1.5,
    "a huge number": 2**70,
    "NUL": "a\0b",
    "half a character": "\ud800",
    "too deep": json.loads("[" * 400 + "]" * 400),
    "deep": json.loads("[" * 150 + "]" * 150),
    "large": "x" * 70_000,
    "many": {str(n): n for n in range(20_000)},
}


def _keys(device: Device, victim: str) -> list[Json]:
    """Bodies of `/keys/upload` that hold what they should not."""
    odd = [device.keys(more=value) for name, value in ODD.items() if name in ("NUL", "deep", "many")]
    odd += [{**device.keys(), "more": value} for value in ODD.values()]
    odd += [
        Device(victim, device.device_id).keys(),
        Device(device.user_id, "OTHER").keys(),
        {**device.keys(), "signatures": {victim: {"ed25519:X": "A" * 86}}},
        device.keys(algorithms=["x" * 300]),
    ]
    one_time = [
        device.one_time_keys(1_001),
        *(device.one_time_keys(1, more=ODD[name]) for name in ("NUL", "deep")),
    ]
    one_time += [
        {f"signed_curve25519:{name}": {"key": value, "signatures": {}}} for name, value in ODD.items()
    ]
    return [{"device_keys": keys} for keys in odd] + [
        {kind: keys} for keys in one_time for kind in ("one_time_keys", "fallback_keys")
    ]


def _requests(owner: Owner, device: Device, victim: str) -> list[tuple[str, str, Json]]:
    found: list[tuple[str, str, Json]] = [("POST", "v3/keys/upload", body) for body in _keys(device, victim)]
    identity = Identity(owner.user_id, "hostile")
    foreign = identity.signs(Device(victim, "VICTIM").keys(), "self_signing")
    signed_by_victim = {**device.keys(), "signatures": {victim: {"ed25519:X": "A" * 86}}}
    bodies: list[Json] = [
        {victim: {"VICTIM": foreign}},
        {owner.user_id: {device.device_id: signed_by_victim}},
        *({owner.user_id: {device.device_id: {"more": value}}} for value in ODD.values()),
        {f"@u{n}:x": {"D": {}} for n in range(600)},
    ]
    found += [("POST", "v3/keys/signatures/upload", body) for body in bodies]
    master = Identity(victim, "hostile").keys("master")["master"]
    found += [
        ("POST", "v3/keys/device_signing/upload", {"master_key": key}) for key in (master, *ODD.values())
    ]
    found += [
        ("PUT", f"v3/devices/{device.device_id}", {"display_name": value})
        for value in (*ODD.values(), "x" * 300)
    ]
    found += [_message({victim: {"*": {"n": value}}}) for value in ODD.values()]
    found += [_message({victim: {name: {"n": 1}}}) for name in ("", "a\0", "x" * 1_000, "\ud800")]
    found += [
        _message({name: {"*": {"n": 1}}}) for name in ("x", "@x", "@:", "@\0:x", f"@x{victim}", "@x:\0")
    ]
    found.append(_message({victim: {f"D{n}": {} for n in range(10_001)}}))
    found.append(_message({victim: {"*": {"n": 1}}}, event_type="x" * 300))
    found.append(_message({victim: {"*": {"n": 1}}}, event_type="a\0b"))
    return found


_sent: list[int] = []


def _message(messages: Json, event_type: str = "m.odd") -> tuple[str, str, Json]:
    _sent.append(1)
    return "PUT", f"v3/sendToDevice/{quote(event_type)}/odd{len(_sent)}", {"messages": messages}


def test_whatever_a_client_uploads_the_other_server_goes_on_hearing(pair: Pair) -> None:
    """Each request is answered in words; then a device, a message to it and one in the room arrive as ever."""
    near, far = pair.servers
    hostile, friend = Owner(near, "hostile"), Owner(far, "friend")
    room_id = hostile.create_room()
    friend.join(room_id, near.server_name)
    tracker = Tracker(friend)
    device = hostile.gains_device()
    by_device = hostile.on(device.device_id)
    answers = []
    for method, path, body in _requests(hostile, device, friend.user_id):
        answer = near.process.call(
            method, f"/_matrix/client/{path}", json.dumps(body).encode(), token=by_device.token
        )
        shown = f"{method} {path} {json.dumps(body)[:200]}"
        assert answer.status < 500, (shown, answer)
        assert answer.status == 200 or answer.body["errcode"].startswith("M_"), (shown, answer)
        answers.append(answer.status)
    assert answers.count(400) > len(answers) / 2
    newest = hostile.gains_device()
    hostile.call("PUT", "v3/sendToDevice/m.honest/1", {"messages": {friend.user_id: {"*": {"n": 1}}}})
    hostile.say(room_id, "after all that")
    friend.hears(room_id, "after all that")
    friend.until(
        lambda me: "m.honest" in {event["type"] for event in me.to_device}, "a message to the device"
    )

    def knows(_me: Person) -> bool:
        tracker.follow()
        return newest.device_id in tracker.held.get(hostile.user_id, {"devices": {}})["devices"]

    friend.until(knows, "the newest device")
