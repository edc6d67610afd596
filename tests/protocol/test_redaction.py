# SPDX-License-Identifier: Apache-2.0
"""What survives redaction in each room version, worked out from the text of the specification."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.redaction import redact
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from tests.protocol.pdus import ALL_VERSIONS

ALL = range(1, 13)
#: Top-level key → versions in which it survives.
TOP_LEVEL = {
    **dict.fromkeys(["event_id", "type", "room_id", "sender", "state_key", "content", "hashes"], ALL),
    **dict.fromkeys(["signatures", "depth", "prev_events", "auth_events", "origin_server_ts"], ALL),
    **dict.fromkeys(["prev_state", "origin", "membership"], range(1, 11)),
    **dict.fromkeys(["unsigned", "redacts", "age_ts", "x"], range(0)),
}
_LEVELS = ["ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"]
#: Event type → content key → versions in which it survives.
CONTENT: dict[str, dict[str, range]] = {
    "m.room.member": {
        "membership": ALL,
        "join_authorised_via_users_server": range(9, 13),
        "displayname": range(0),
        "third_party_invite": range(0),  # here a string; the object has tests of its own
    },
    "m.room.create": {
        "creator": ALL,
        "room_version": range(11, 13),
        "m.federate": range(11, 13),
        "predecessor": range(11, 13),
        "additional_creators": range(11, 13),
        "x": range(11, 13),
    },
    "m.room.join_rules": {"join_rule": ALL, "allow": range(8, 13), "x": range(0)},
    "m.room.power_levels": {
        **dict.fromkeys(_LEVELS, ALL),
        "invite": range(11, 13),
        "notifications": range(0),
    },
    "m.room.aliases": {"aliases": range(1, 6), "x": range(0)},
    "m.room.history_visibility": {"history_visibility": ALL, "x": range(0)},
    "m.room.redaction": {"redacts": range(11, 13), "reason": range(0)},
    "m.room.message": {"body": range(0), "msgtype": range(0), "membership": range(0), "creator": range(0)},
    "m.room.third_party_invite": {"public_key": range(0)},
}


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_top_level_keys(version: RoomVersion) -> None:
    pdu: dict[str, Any] = dict.fromkeys(TOP_LEVEL, "value") | {"type": "m.x", "content": {"a": 1}}
    kept = {key for key, versions in TOP_LEVEL.items() if int(version.identifier) in versions}
    assert redact(pdu, version) == {key: pdu[key] for key in kept} | {"content": {}}


@pytest.mark.parametrize("event_type", CONTENT)
@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_content_keys(version: RoomVersion, event_type: str) -> None:
    content = dict.fromkeys(CONTENT[event_type], "value")
    kept = {key for key, versions in CONTENT[event_type].items() if int(version.identifier) in versions}
    redacted = redact({"type": event_type, "content": content}, version)
    assert redacted == {"type": event_type, "content": dict.fromkeys(kept, "value")}


@pytest.mark.parametrize(
    ("invite", "kept"),
    [
        ({"signed": {"token": "t"}, "display_name": "d"}, {"third_party_invite": {"signed": {"token": "t"}}}),
        ({"signed": None}, {"third_party_invite": {"signed": None}}),
        ({"display_name": "d"}, {"third_party_invite": {}}),
        ("text", {}),
        (["signed"], {}),
    ],
)
@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_third_party_invites(version: RoomVersion, invite: Any, kept: dict[str, Any]) -> None:
    content = {"membership": "invite", "third_party_invite": invite}
    redacted = redact({"type": "m.room.member", "content": content}, version)
    surviving = kept if int(version.identifier) >= 11 else {}
    assert redacted["content"] == {"membership": "invite"} | surviving


def test_nothing_is_changed_in_place() -> None:
    pdu = {"type": "m.room.member", "content": {"membership": "join", "x": 1}, "unsigned": {"age": 1}}
    redact(pdu, ROOM_VERSIONS["12"])
    assert pdu == {"type": "m.room.member", "content": {"membership": "join", "x": 1}, "unsigned": {"age": 1}}


KEYS = st.sampled_from(sorted({key for keys in CONTENT.values() for key in keys} | set(TOP_LEVEL)))
VALUES = st.none() | st.integers() | st.text() | st.dictionaries(st.just("signed") | KEYS, st.integers())


@given(
    version=st.sampled_from(ALL_VERSIONS),
    event_type=st.sampled_from(sorted(CONTENT)),
    content=st.dictionaries(KEYS, VALUES),
    top_level=st.dictionaries(KEYS, VALUES),
)
def test_redaction_is_idempotent_and_only_removes(
    version: RoomVersion, event_type: str, content: dict[str, Any], top_level: dict[str, Any]
) -> None:
    pdu = top_level | {"type": event_type, "content": content}
    once = redact(pdu, version)
    assert redact(once, version) == once
    assert once.keys() <= pdu.keys()
    assert once["content"].keys() <= content.keys()
