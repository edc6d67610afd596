# SPDX-License-Identifier: Apache-2.0
"""Dehydrated devices as both kinds of clients use them: every message once, and an end."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import Arrive
from tests.api.wire import check_refusal
from tests.api.world import Person
from tests.devices.devices_fixture import Device

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
EVENTS = f"{PATH}/SLEEPER/events"
MESSAGES = 230


def _dehydrates(person: Person, device_id: str = "SLEEPER") -> Any:
    device = Device(person.user_id, device_id)
    body = {
        "device_id": device_id,
        "device_data": {"algorithm": "a", "device_pickle": "p"},
        "initial_device_display_name": "Sleeper",
        "device_keys": device.keys(dehydrated=True),
        "one_time_keys": device.one_time_keys(2),
    }
    return person.ok("PUT", PATH, body)


def _is_sent(person: Person, other: Person) -> None:
    for n in range(MESSAGES):
        body = {"messages": {person.user_id: {"SLEEPER": {"n": n}}}}
        other.ok("PUT", f"/sendToDevice/org.example/t{n}", body)


def _numbers(page: Any) -> list[int]:
    return [event["content"]["n"] for event in page["events"]]


def test_it_is_there_or_it_is_not(arrive: Arrive) -> None:
    """M_NOT_FOUND tells clients that the server knows of such devices."""
    alice = arrive("alice")
    for method, path in (("GET", PATH), ("DELETE", PATH), ("GET", EVENTS)):
        check_refusal(alice.call(method, path), 404, "M_NOT_FOUND")
    check_refusal(alice.call("POST", EVENTS, {}), 404, "M_NOT_FOUND")
    assert _dehydrates(alice) == {"device_id": "SLEEPER"}
    data = {"algorithm": "a", "device_pickle": "p"}
    assert alice.ok("GET", PATH) == {"device_id": "SLEEPER", "device_data": data}
    shown = alice.ok("GET", "/devices")["devices"]
    assert "Sleeper" in [device.get("display_name") for device in shown]
    check_refusal(alice.call("GET", f"{PATH}/ANOTHER/events"), 403, "M_FORBIDDEN")
    for token in ("1", "d", "d-1", "d01", "s1_1"):
        check_refusal(alice.call("GET", f"{EVENTS}?from={token}"), 400, "M_INVALID_PARAM")
    assert alice.ok("DELETE", PATH) == {"device_id": "SLEEPER"}
    check_refusal(alice.call("GET", PATH), 404, "M_NOT_FOUND")


def test_messages_are_read_by_get(arrive: Arrive) -> None:
    """With a token as long as there is more, and none at the end."""
    alice, bob = arrive("alice"), arrive("bob")
    _dehydrates(alice)
    assert alice.ok("GET", EVENTS) == {"events": []}
    _is_sent(alice, bob)
    for _ in range(2):
        page, read = alice.ok("GET", EVENTS), []
        while "next_batch" in page:
            read += _numbers(page)
            page = alice.ok("GET", f"{EVENTS}?from={page['next_batch']}")
        assert read + _numbers(page) == list(range(MESSAGES))


def test_messages_are_read_by_post(arrive: Arrive) -> None:
    """With a token in every answer, until one has no events."""
    alice, bob = arrive("alice"), arrive("bob")
    _dehydrates(alice)
    _is_sent(alice, bob)
    page, read = alice.ok("POST", EVENTS, {}), []
    while page["events"]:
        read += _numbers(page)
        page = alice.ok("POST", EVENTS, {"next_batch": page["next_batch"]})
    assert read == list(range(MESSAGES))
    assert page["next_batch"]


def test_logging_out_everywhere_leaves_it(arrive: Arrive) -> None:
    """That is what it is for: logging in again finds it."""
    alice = arrive("alice")
    _dehydrates(alice)
    alice.ok("POST", "/logout/all", {})
    again = alice.logs_in().body["access_token"]
    answer = alice.wire.call("GET", PATH, token=again)
    assert answer.status == 200 and answer.body["device_id"] == "SLEEPER"
