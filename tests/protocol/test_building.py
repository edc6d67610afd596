# SPDX-License-Identifier: Apache-2.0
"""Events built here pass every check that another server makes on receipt."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.building import BuiltEvent, build_event, next_depth
from homeserver.protocol.errors import CanonicalJsonError, EventFormatError, EventTooLargeError, ProtocolError
from homeserver.protocol.event_format import MAX_PDU_BYTES, check_pdu_format
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import content_hash_matches
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import check_event_signatures
from tests.protocol.pdus import ALL_VERSIONS, HASH, KEY, a_room_id

V10, V12 = ROOM_VERSIONS["10"], ROOM_VERSIONS["12"]


def build(version: RoomVersion, **changes: Any) -> BuiltEvent:
    reference = "$prev:domain" if version.chooses_event_ids else "$" + HASH
    arguments: dict[str, Any] = {
        "room_version": version,
        "room_id": a_room_id(version),
        "event_type": "m.room.message",
        "state_key": None,
        "sender": "@alice:domain",
        "content": {"body": "hello"},
        "prev_event_ids": [reference],
        "auth_event_ids": (reference,),
        "depth": 5,
        "origin_server_ts": 1_700_000_000_000,
        "server_name": "domain",
        "signing_key": KEY,
        "event_id": "$own:domain" if version.chooses_event_ids else None,
        "reference_hashes": {"$prev:domain": HASH},
    }
    return build_event(**(arguments | changes))


def assert_acceptable(built: BuiltEvent, version: RoomVersion) -> None:
    pdu = orjson.loads(built.json_bytes)
    assert pdu == built.event.pdu
    assert check_pdu_format(pdu, version) == built.json_bytes
    received = Event.from_pdu(pdu, version)
    assert received.event_id == built.event.event_id
    assert received.room_id == built.event.room_id
    assert content_hash_matches(pdu, version)
    check_event_signatures(received, {"domain": {KEY.key_id: KEY.verify_key}})


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_messages_and_state(version: RoomVersion) -> None:
    member = {"membership": "join", "displayname": "Alice"}
    variants: list[dict[str, Any]] = [
        {},
        {"content": {}},
        {"event_type": "m.room.member", "state_key": "@alice:domain", "content": member},
        {"event_type": "m.room.power_levels", "state_key": "", "content": {"users": {"@a:b": 100}, "x": 1}},
    ]
    for changes in variants:
        assert_acceptable(build(version, **changes), version)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_create_events(version: RoomVersion) -> None:
    built = build(
        version,
        event_type="m.room.create",
        state_key="",
        room_id=None if version.room_id_is_create_hash else "!room:domain",
        content={"room_version": version.identifier, "creator": "@alice:domain"},
        prev_event_ids=[],
        auth_event_ids=[],
        depth=1,
    )
    assert_acceptable(built, version)
    assert ("room_id" in built.event.pdu) is not version.room_id_is_create_hash


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_redactions(version: RoomVersion) -> None:
    content = {"reason": "spam"}
    built = build(version, event_type="m.room.redaction", content=content, redacts="$target")
    assert_acceptable(built, version)
    assert built.event.redacts == "$target"
    assert ("redacts" in built.event.pdu) is not version.redacts_in_content
    assert content == {"reason": "spam"}


@given(
    version=st.sampled_from(ALL_VERSIONS),
    content=st.dictionaries(
        st.text(), st.none() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text() | st.lists(st.booleans())
    ),
    event_type=st.sampled_from(["m.room.message", "m.room.create", "m.room.member", "m.x"]),
)
def test_any_canonical_content(version: RoomVersion, content: dict[str, Any], event_type: str) -> None:
    assert_acceptable(build(version, content=content, event_type=event_type), version)


@pytest.mark.parametrize(
    "content", [{"a": 1.5}, {"a": 2**53}, {"a": float("nan")}, {"a": {1: 2}}, {"\ud800": 1}]
)
def test_content_must_be_canonical_in_every_version(content: dict[str, Any]) -> None:
    for version in ALL_VERSIONS:
        with pytest.raises(CanonicalJsonError):
            build(version, content=content)


def test_size_limit() -> None:
    room = MAX_PDU_BYTES - len(build(V12, content={"body": ""}).json_bytes)
    assert len(build(V12, content={"body": "x" * room}).json_bytes) == MAX_PDU_BYTES
    with pytest.raises(EventTooLargeError):
        build(V12, content={"body": "x" * (room + 1)})


@pytest.mark.parametrize(
    "changes",
    [
        {"sender": "alice"},
        {"room_id": None},
        {"room_id": "!room:domain"},
        {"event_type": "x" * 256},
        {"state_key": "x" * 256},
        {"state_key": "\ud800"},
        {"depth": -1},
        {"depth": 2**53},
        {"origin_server_ts": 2**53},
        {"prev_event_ids": ["$" + HASH] * 21},
        {"auth_event_ids": ["$" + HASH] * 11},
        {"redacts": "\ud800"},
        {"redacts": ""},
        {"event_id": "$own:domain"},
        {"event_type": "m.room.create", "state_key": ""},
    ],
)
def test_bad_fields(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        build(V12, **changes)


def test_versions_1_and_2_need_an_id_and_the_hashes_of_references() -> None:
    version = ROOM_VERSIONS["1"]
    assert build(version).event.pdu["prev_events"] == [["$prev:domain", {"sha256": HASH}]]
    incomplete: list[dict[str, Any]] = [
        {"event_id": None},
        {"event_id": "$" + HASH},
        {"reference_hashes": {}},
    ]
    for changes in incomplete:
        with pytest.raises(EventFormatError):
            build(version, **changes)


def test_depths() -> None:
    assert next_depth([], V12) == 1
    assert next_depth([3, 9, 4], V12) == 10
    assert next_depth([2**53 - 1], V12) == 2**53 - 1
    assert next_depth([2**63 - 1], ROOM_VERSIONS["5"]) == 2**63 - 1
