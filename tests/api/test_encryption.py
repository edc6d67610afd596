# SPDX-License-Identifier: Apache-2.0
"""End-to-end encryption as clients see it: keys, lists of devices and messages over HTTP and WebSocket."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import Arrive
from tests.api.world import Person
from tests.devices.devices_fixture import Device, Identity
from tests.sync_proof.transport import WebSocket


def keys_of(person: Person) -> Device:
    return Device(person.user_id, person.account.device_id)


def uploads(person: Person, count: int = 0, **more: Any) -> dict[str, int]:
    device = keys_of(person)
    body = {"device_keys": device.keys(), "one_time_keys": device.one_time_keys(count), **more}
    counts: dict[str, int] = person.ok("POST", "/keys/upload", body)["one_time_key_counts"]
    return counts


def sends(
    person: Person, to: Person, n: int, transaction: str | None = None, device: str | None = None
) -> None:
    messages = {to.user_id: {device or to.account.device_id: {"n": n}}}
    path = f"/sendToDevice/m.test/{transaction or n}"
    assert person.ok("PUT", path, {"messages": messages}) == {}


def got(response: Any) -> list[int]:
    return [event["content"]["n"] for event in response["to_device"]["events"]]


def hears_of_devices(person: Person, since: str) -> Any:
    """The first response that has news of devices: other news, such as presence, may come before."""
    for _ in range(20):
        told = person.syncs(since, timeout=30_000)
        if told["device_lists"]["changed"]:
            return told
        since = told["next_batch"]
    raise AssertionError(f"{person.user_id} never heard of devices")


def test_two_who_meet_exchange_keys_and_messages(arrive: Arrive) -> None:
    """From the first key to the last acknowledgement."""
    alice, bob = arrive("alice"), arrive("bob")
    assert uploads(alice, 3) == {"signed_curve25519": 3} and uploads(bob) == {}
    room = alice.creates(preset="public_chat")
    since = alice.syncs()["next_batch"]
    bob.joins(room)
    told = alice.syncs(since)
    assert told["device_lists"] == {"changed": [bob.user_id], "left": []}
    assert told["device_one_time_keys_count"] == {"signed_curve25519": 3}
    assert told["device_unused_fallback_key_types"] == []
    keys = bob.ok("POST", "/keys/query", {"device_keys": {alice.user_id: []}})
    assert set(keys["device_keys"][alice.user_id]) == {alice.account.device_id} and keys["failures"] == {}
    wanted = {alice.user_id: {alice.account.device_id: "signed_curve25519"}}
    claimed = bob.ok("POST", "/keys/claim", {"one_time_keys": wanted})["one_time_keys"]
    assert list(claimed[alice.user_id][alice.account.device_id]) == ["signed_curve25519:000000"]
    for _ in range(2):
        sends(bob, alice, 1)
    sends(bob, alice, 2, device="*")
    first = alice.syncs(told["next_batch"])
    assert got(first) == got(alice.syncs(told["next_batch"])) == [1, 2]
    assert first["device_one_time_keys_count"] == {"signed_curve25519": 2}
    idle = alice.syncs(alice.syncs(first["next_batch"])["next_batch"])
    assert got(idle) == [] and idle["device_one_time_keys_count"] == {"signed_curve25519": 2}
    assert got(alice.syncs()) == [], "it was acknowledged"
    bob.leaves(room)
    assert alice.syncs(idle["next_batch"])["device_lists"] == {"changed": [], "left": [bob.user_id]}
    changes = alice.ok("GET", "/keys/changes", query={"from": since, "to": idle["next_batch"]})
    assert changes == {"changed": [], "left": []}, "they had not met then, and do not now"


def test_a_device_that_logs_out_is_told_of_and_takes_everything_with_it(arrive: Arrive) -> None:
    alice = arrive("alice")
    other = alice.device()
    uploads(alice)
    uploads(other, 2)
    sends(alice, other, 1)
    since = alice.syncs()["next_batch"]
    alice.ok("PUT", f"/devices/{other.account.device_id}", {"display_name": "Renamed"})
    told = hears_of_devices(alice, since)
    assert told["device_lists"]["changed"] == [alice.user_id]
    other.ok("POST", "/logout", {})
    told = hears_of_devices(alice, told["next_batch"])
    assert told["device_lists"]["changed"] == [alice.user_id]
    keys = alice.ok("POST", "/keys/query", {"device_keys": {alice.user_id: []}})["device_keys"]
    assert set(keys[alice.user_id]) == {alice.account.device_id}
    wanted = {alice.user_id: {other.account.device_id: "signed_curve25519"}}
    assert alice.ok("POST", "/keys/claim", {"one_time_keys": wanted})["one_time_keys"] == {}


def test_cross_signing_asks_for_the_password_only_when_keys_are_replaced(arrive: Arrive) -> None:
    alice = arrive("alice")
    uploads(alice)

    def body(generation: str, **more: Any) -> dict[str, Any]:
        keys = Identity(alice.user_id, generation).keys()
        return {f"{usage}_key": key for usage, key in keys.items()} | more

    path = "/keys/device_signing/upload"
    for _ in range(2):
        alice.ok("POST", path, body("1"))
    refused = alice.call("POST", path, body("2"))
    assert refused.status == 401 and refused.body["flows"] == [{"stages": ["m.login.password"]}]
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": alice.account.password,
        "session": refused.body["session"],
    }
    alice.ok("POST", "/_matrix/client/unstable" + path, body("2", auth=auth))
    shown = alice.ok("POST", "/keys/query", {"device_keys": {alice.user_id: []}})
    assert shown["master_keys"][alice.user_id] == body("2")["master_key"]
    signed = Identity(alice.user_id, "2").signs(keys_of(alice).keys(), "self_signing")
    device_id = alice.account.device_id
    signatures = {alice.user_id: {device_id: signed, "NONE": signed}}
    failures = alice.ok("POST", "/keys/signatures/upload", signatures)["failures"]
    assert set(failures[alice.user_id]) == {"NONE"} and failures[alice.user_id]["NONE"]["error"]


def test_what_is_no_key_is_refused_in_words(arrive: Arrive) -> None:
    alice, bob = arrive("alice"), arrive("bob")
    forged = Device(alice.user_id, alice.account.device_id).keys()
    refused = bob.call("POST", "/keys/upload", {"device_keys": forged})
    assert (refused.status, refused.body["errcode"]) == (400, "M_BAD_JSON")
    wrong = {**forged, "algorithms": []}
    refused = alice.call("POST", "/keys/upload", {"device_keys": wrong})
    assert (refused.status, refused.body["errcode"]) == (400, "M_INVALID_SIGNATURE")
    refused = alice.call("POST", "/keys/device_signing/upload", {"self_signing_key": {}})
    assert refused.status == 400
    assert alice.call("GET", "/keys/changes", query={"from": "x", "to": "y"}).status == 400


def test_many_messages_come_in_pages_of_a_hundred(arrive: Arrive) -> None:
    alice, bob = arrive("alice"), arrive("bob")
    for n in range(205):
        sends(alice, bob, n)
    since, seen = None, []
    for expected in (100, 100, 5, 0):
        told = bob.syncs(since, timeout=0)
        assert len(got(told)) == expected
        seen += got(told)
        since = told["next_batch"]
    assert seen == list(range(205))


def test_over_websocket_messages_are_kept_until_the_client_says_so(arrive: Arrive) -> None:
    """What was sent may not have arrived: only `ack`, or coming back with the token, deletes."""
    alice, bob = arrive("alice"), arrive("bob")
    since = bob.syncs()["next_batch"]
    sends(alice, bob, 1)

    def connects(token: str) -> WebSocket:
        return WebSocket(bob.server.port, {"since": token, "access_token": bob.token})

    for acknowledges in (False, True):
        socket = connects(since)
        update = socket.receive()
        while not got(update):
            update = socket.receive()
        assert got(update) == [1]
        if acknowledges:
            socket.send({"id": "1", "method": "ack", "params": {"since": update["next_batch"]}})
            while socket.receive().get("id") != "1":
                pass
        socket.close()
    assert got(bob.syncs()) == []
