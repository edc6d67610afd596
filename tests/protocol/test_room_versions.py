# SPDX-License-Identifier: Apache-2.0
"""The room version table says what the specification's feature matrix says."""

import pytest

from homeserver.protocol.errors import UnsupportedRoomVersionError
from homeserver.protocol.room_versions import (
    DEFAULT_ROOM_VERSION,
    ROOM_VERSIONS,
    STABLE_ROOM_VERSIONS,
    EventIdFormat,
    RedactionRules,
    StateResolution,
    room_version,
)

#: Feature → the first and last version that has it.
SPANS = {
    "strict_canonical_json": (6, 12),
    "enforces_key_validity": (5, 12),
    "special_aliases_auth": (1, 5),
    "redaction_auth_rule": (1, 2),
    "limits_notification_levels": (6, 12),
    "knock": (7, 12),
    "restricted_joins": (8, 12),
    "knock_restricted": (10, 12),
    "integer_power_levels": (10, 12),
    "float_power_levels": (1, 5),
    "create_has_creator": (1, 10),
    "redacts_in_content": (11, 12),
    "room_id_is_create_hash": (12, 12),
    "privileged_creators": (12, 12),
    "chooses_event_ids": (1, 2),
    "create_in_auth_events": (1, 11),
}


@pytest.mark.parametrize("feature", SPANS)
def test_each_feature_spans_its_versions(feature: str) -> None:
    first, last = SPANS[feature]
    having = [int(v.identifier) for v in ROOM_VERSIONS.values() if getattr(v, feature)]
    assert having == list(range(first, last + 1))


def test_event_id_formats() -> None:
    formats = [v.event_id_format for v in ROOM_VERSIONS.values()]
    assert formats == (
        [EventIdFormat.SERVER_CHOSEN] * 2
        + [EventIdFormat.HASH_BASE64]
        + [EventIdFormat.HASH_URL_SAFE_BASE64] * 9
    )


def test_state_resolution_algorithms() -> None:
    algorithms = [v.state_resolution for v in ROOM_VERSIONS.values()]
    assert algorithms == [StateResolution.V1] + [StateResolution.V2] * 10 + [StateResolution.V2_1]


def test_redaction_rules() -> None:
    rules = [v.redaction_rules.value for v in ROOM_VERSIONS.values()]
    assert rules == ["1"] * 5 + ["6"] * 2 + ["8"] + ["9"] * 2 + ["11"] * 2
    assert set(rules) == {rule.value for rule in RedactionRules}


def test_every_version_is_found_by_its_identifier() -> None:
    assert list(ROOM_VERSIONS) == [str(n) for n in range(1, 13)] == list(STABLE_ROOM_VERSIONS)
    assert [str(room_version(identifier)) for identifier in ROOM_VERSIONS] == list(ROOM_VERSIONS)
    assert DEFAULT_ROOM_VERSION == "12"


@pytest.mark.parametrize("identifier", ["", "0", "13", "org.example.v1", "1 ", "x" * 10000])
def test_unknown_versions_are_refused(identifier: str) -> None:
    with pytest.raises(UnsupportedRoomVersionError):
        room_version(identifier)
