# SPDX-License-Identifier: Apache-2.0
"""Event formats: well-formed PDUs of each version pass, every departure is refused by name."""

from typing import Any

import pytest
from canonicaljson import encode_canonical_json
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.errors import EventFormatError, EventTooLargeError, ProtocolError
from homeserver.protocol.event_format import MAX_PDU_BYTES, check_pdu_format, parse_pdu
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from tests.protocol.pdus import ALL_VERSIONS, HASH, a_create_pdu, a_pdu

V1, V10, V12 = ROOM_VERSIONS["1"], ROOM_VERSIONS["10"], ROOM_VERSIONS["12"]
NOT_A_STRING: list[Any] = [1, True, [], {}]


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_good_pdus_pass_and_give_their_bytes(version: RoomVersion) -> None:
    for pdu in (
        a_pdu(version),
        a_create_pdu(version),
        a_pdu(version, unsigned={"age": 1.5}),
        a_pdu(version, state_key="", sender="@historical é:domain"),
        a_pdu(version, depth=0, origin_server_ts=0, prev_events=[], auth_events=[], extra=[None]),
    ):
        assert check_pdu_format(pdu, version) == encode_canonical_json(pdu)
        assert parse_pdu(pdu, version) == Event.from_pdu(pdu, version)


@pytest.mark.parametrize("pdu", [None, [], "", 1, {}])
def test_what_is_no_pdu_at_all(pdu: Any) -> None:
    for version in ALL_VERSIONS:
        with pytest.raises(EventFormatError):
            check_pdu_format(pdu, version)


REQUIRED = ["type", "sender", "content", "depth", "origin_server_ts", "hashes", "signatures", "room_id"]


@pytest.mark.parametrize("key", [*REQUIRED, "prev_events", "auth_events"])
@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_required_keys(version: RoomVersion, key: str) -> None:
    pdu = a_pdu(version)
    del pdu[key]
    with pytest.raises(EventFormatError, match=key):
        check_pdu_format(pdu, version)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("type", NOT_A_STRING),
        ("state_key", NOT_A_STRING),
        ("sender", [*NOT_A_STRING, "", "alice", "@alice", "@alice:", "@a\0b:domain", "@a:do main"]),
        ("room_id", [*NOT_A_STRING, "", "!", "!a:", "room:domain", "$" + HASH, "!" + HASH[1:]]),
        ("content", ["", 1, []]),
        ("depth", ["1", 1.0, True, -1, 2**63]),
        ("origin_server_ts", ["1", 1.0, True, 2**63, -(2**63)]),
        ("hashes", ["", [], {}, {"sha256": 1}, {"md5": ""}]),
        ("signatures", ["", [], {"a": ""}, {"a": {"b": 1}}]),
        ("unsigned", ["", [], 1]),
        (
            "prev_events",
            ["", {}, [1], [[]], [["$a"]], [["$a", "b"]], [None], ["a"], [["a", {}]], [[1, {}]], ["$"]],
        ),
        (
            "auth_events",
            ["", {}, [1], [[]], [["$a"]], [["$a", "b"]], [None], ["a"], [["a", {}]], [[1, {}]], ["$"]],
        ),
    ],
)
@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_wrong_values(version: RoomVersion, key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(EventFormatError):
            check_pdu_format(a_pdu(version) | {key: value}, version)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_counts_of_references(version: RoomVersion) -> None:
    reference = a_pdu(version)["prev_events"][0]
    check_pdu_format(a_pdu(version, prev_events=[reference] * 20, auth_events=[reference] * 10), version)
    for too_many in ({"prev_events": [reference] * 21}, {"auth_events": [reference] * 11}):
        with pytest.raises(EventFormatError, match="more than"):
            check_pdu_format(a_pdu(version, **too_many), version)


def test_references_are_of_the_versions_form() -> None:
    with pytest.raises(EventFormatError):
        check_pdu_format(a_pdu(V1, prev_events=["$a:domain"]), V1)
    with pytest.raises(EventFormatError):
        check_pdu_format(a_pdu(V10, prev_events=[["$a:domain", {}]]), V10)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_room_ids_are_of_the_versions_form(version: RoomVersion) -> None:
    with_domain, without = "!room:domain", "!" + HASH
    good, bad = (without, with_domain) if version is V12 else (with_domain, without)
    check_pdu_format(a_pdu(version, room_id=good), version)
    with pytest.raises(EventFormatError):
        check_pdu_format(a_pdu(version, room_id=bad), version)


def test_a_create_event_of_version_12_has_no_room_id() -> None:
    with pytest.raises(EventFormatError, match="must not have"):
        check_pdu_format(a_create_pdu(V12, room_id="!" + HASH), V12)
    for not_the_create_event in (a_create_pdu(V12, state_key="x"), a_create_pdu(V12, state_key=None)):
        with pytest.raises(EventFormatError, match="room_id"):
            check_pdu_format(not_the_create_event, V12)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_event_id_field(version: RoomVersion) -> None:
    for value in (None, 1, "", "$" + HASH, "$a:", "$" + "a" * 250 + ":domain"):
        pdu = a_pdu(version) | {"event_id": value}
        if version.chooses_event_ids:
            with pytest.raises(EventFormatError):
                check_pdu_format(pdu, version)
        else:
            check_pdu_format(pdu, version)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_numbers(version: RoomVersion) -> None:
    check_pdu_format(a_pdu(version, depth=2**53 - 1), version)
    for loose in ({"depth": 2**53}, {"depth": 2**63 - 1}, {"content": {"a": 0.5}}, {"content": {"a": 2**70}}):
        pdu = a_pdu(version, **loose)
        if version.strict_canonical_json:
            with pytest.raises(ProtocolError):
                check_pdu_format(pdu, version)
        else:
            assert check_pdu_format(pdu, version) == encode_canonical_json(pdu)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_top_level_redacts(version: RoomVersion) -> None:
    pdu = a_pdu(version, type="m.room.redaction", redacts=1)
    check_pdu_format(pdu | {"type": "m.x"}, version)
    if version.redacts_in_content:
        check_pdu_format(pdu, version)
    else:
        with pytest.raises(EventFormatError, match="redacts"):
            check_pdu_format(pdu, version)


@pytest.mark.parametrize("key", ["type", "state_key"])
def test_sizes_of_keys_count_bytes(key: str) -> None:
    for text, fits in (("a" * 255, True), ("a" * 256, False), ("é" * 127, True), ("é" * 128, False)):
        pdu = a_pdu(V12, **{key: text})
        if fits:
            check_pdu_format(pdu, V12)
        else:
            with pytest.raises(EventTooLargeError):
                check_pdu_format(pdu, V12)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_size_of_the_whole_event(version: RoomVersion) -> None:
    room = MAX_PDU_BYTES - len(encode_canonical_json(a_pdu(version, content={"body": ""})))
    assert len(check_pdu_format(a_pdu(version, content={"body": "x" * room}), version)) == 65536
    with pytest.raises(EventTooLargeError):
        check_pdu_format(a_pdu(version, content={"body": "x" * (room + 1)}), version)
    with pytest.raises(EventTooLargeError):
        check_pdu_format(a_pdu(version, content={"body": "x" * room}, unsigned={}), version)


def test_hostile_text_and_nesting() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50_000):
        deep = {"a": deep}
    for bad in ({"type": "\ud800"}, {"state_key": "\ud800"}, {"content": {"\ud800": 1}}, {"content": deep}):
        for version in ALL_VERSIONS:
            with pytest.raises(ProtocolError):
                check_pdu_format(a_pdu(version, **bad), version)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    version=st.sampled_from(ALL_VERSIONS),
    changes=st.dictionaries(
        st.sampled_from([*REQUIRED, "state_key", "prev_events", "event_id", "unsigned"]), JSON
    ),
)
def test_any_json_is_parsed_or_refused(version: RoomVersion, changes: dict[str, Any]) -> None:
    try:
        event = parse_pdu(a_pdu(version) | changes, version)
    except ProtocolError:
        return
    assert event.event_id.startswith("$")
