# SPDX-License-Identifier: Apache-2.0
"""The event reads each field where its room version keeps it."""

import pytest

from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from tests.protocol.pdus import ALL_VERSIONS, HASH, a_create_pdu, a_pdu, a_room_id


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_fields_of_a_message(version: RoomVersion) -> None:
    pdu = a_pdu(version)
    event = Event.from_pdu(pdu, version)
    reference = "$prev:domain" if version.chooses_event_ids else "$" + HASH
    assert (event.prev_event_ids, event.auth_event_ids) == ((reference,), (reference,))
    assert (event.room_id, event.type, event.sender) == (
        a_room_id(version),
        "m.room.message",
        "@alice:domain",
    )
    assert (event.depth, event.origin_server_ts) == (7, 1_700_000_000_000)
    assert (event.content, event.pdu, event.room_version) == (pdu["content"], pdu, version)
    assert (event.state_key, event.is_state, event.redacts) == (None, False, None)
    with pytest.raises(ValueError, match="not a state event"):
        _ = event.state_tuple


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_room_id_of_a_create_event(version: RoomVersion) -> None:
    event = Event.from_pdu(a_create_pdu(version), version)
    assert event.state_tuple == ("m.room.create", "")
    assert event.is_state
    if version.room_id_is_create_hash:
        assert event.room_id == "!" + event.event_id[1:]
    else:
        assert event.room_id == "!room:domain"


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_target_of_a_redaction(version: RoomVersion) -> None:
    pdu = a_pdu(version, type="m.room.redaction", redacts="$top", content={"redacts": "$content"})
    event = Event.from_pdu(pdu, version)
    assert event.redacts == ("$content" if int(version.identifier) >= 11 else "$top")
    for no_target in (
        a_pdu(version, type="m.room.redaction"),
        a_pdu(version, type="m.room.redaction", redacts=1, content={"redacts": 1}),
        pdu | {"type": "m.x"},
    ):
        assert Event.from_pdu(no_target, version).redacts is None


def test_a_known_id_is_taken_over_and_makes_identity() -> None:
    version = ROOM_VERSIONS["12"]
    event, same = (Event.from_pdu(a_pdu(version, depth=depth), version, "$known") for depth in (1, 2))
    assert event.event_id == "$known"
    assert event == same and hash(event) == hash(same)
    assert event != Event.from_pdu(a_pdu(version), version)
    assert event != "$known"
    assert "$known" in repr(event)


def test_events_are_frozen() -> None:
    event = Event.from_pdu(a_pdu(ROOM_VERSIONS["12"]), ROOM_VERSIONS["12"])
    with pytest.raises(AttributeError):
        event.type = "m.x"  # type: ignore[misc]
