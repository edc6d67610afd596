# SPDX-License-Identifier: Apache-2.0
"""Power levels: how each version reads them, the defaults, and the rule for changing them."""

from typing import Any

import pytest

from homeserver.protocol.event_auth import AuthError, check_event_auth
from homeserver.protocol.power_levels import CREATOR_LEVEL, DEFAULT_LEVELS, PowerLevels, parse_level
from homeserver.protocol.room_versions import ROOM_VERSIONS
from tests.protocol.rooms import ALICE, ALL_VERSIONS, BOB, CAROL, Room, public_room, versions

every_version = pytest.mark.parametrize("version", ALL_VERSIONS)

# value, level in versions 1–5, in 6–9, in 10+
VALUES: list[tuple[object, int | None, int | None, int | None]] = [
    (50, 50, 50, 50),
    (-1, -1, -1, -1),
    ("100", 100, 100, None),
    ("000100", 100, 100, None),
    ("+100", 100, 100, None),
    ("-100", -100, -100, None),
    (" \t00100\n ", 100, 100, None),
    ("", None, None, None),
    ("1.5", None, None, None),
    ("1_000", None, None, None),
    ("- 1", None, None, None),
    ("+-1", None, None, None),
    ("0x10", None, None, None),
    ("٣", None, None, None),
    ("9" * 5000, None, None, None),
    (50.57, 50, None, None),
    (-50.57, -50, None, None),
    (5.114698e4, 51146, None, None),
    (float("inf"), None, None, None),
    (float("nan"), None, None, None),
    (True, None, None, None),
    (None, None, None, None),
    ([1], None, None, None),
]


class TestReading:
    @every_version
    @pytest.mark.parametrize(("value", "lax", "strings", "strict"), VALUES)
    def test_advisory_15_values(
        self, version: str, value: object, lax: int | None, strings: int | None, strict: int | None
    ) -> None:
        expected = lax if int(version) < 6 else strings if int(version) < 10 else strict
        assert parse_level(ROOM_VERSIONS[version], value) == expected

    @every_version
    def test_advisory_02_defaults_without_power_levels(self, version: str) -> None:
        levels = PowerLevels.of_events(None, Room(version).create)
        assert levels.user_level(ALICE) == (CREATOR_LEVEL if version == "12" else 100)
        assert levels.user_level(BOB) == 0
        assert levels.event_level("m.any", is_state=True) == 50
        assert levels.event_level("m.any", is_state=False) == 0
        assert (levels.invite, levels.kick, levels.ban, levels.redact) == (0, 50, 50, 50)
        assert levels.notification_level("room") == 50

    @every_version
    def test_entries_and_named_defaults(self, version: str) -> None:
        content = {name: number for number, name in enumerate(DEFAULT_LEVELS, 11)} | {
            "users": {BOB: 7},
            "events": {"m.t": 8},
            "notifications": {"room": 9},
        }
        levels = PowerLevels(ROOM_VERSIONS[version], content, frozenset())
        assert (levels.user_level(BOB), levels.user_level(CAROL)) == (7, 11)
        assert levels.event_level("m.t", is_state=True) == levels.event_level("m.t", is_state=False) == 8
        assert levels.event_level("m.u", is_state=False) == 12
        assert levels.event_level("m.u", is_state=True) == 13
        assert (levels.invite, levels.kick, levels.ban, levels.redact) == (14, 15, 16, 17)
        assert levels.notification_level("room") == 9

    @every_version
    @pytest.mark.parametrize("junk", [None, "x", [], {"room": "x", BOB: {}, "m.t": []}])
    def test_unreadable_parts_count_as_absent(self, version: str, junk: object) -> None:
        content: dict[str, object] = dict.fromkeys(DEFAULT_LEVELS, "x")
        content |= dict.fromkeys(("users", "events", "notifications"), junk)
        levels = PowerLevels(ROOM_VERSIONS[version], content, frozenset())
        assert levels.user_level(BOB) == 0
        assert levels.event_level("m.t", is_state=True) == 50
        assert levels.notification_level("room") == 50
        assert levels.ban == 50

    @pytest.mark.parametrize("version", versions(1, 11))
    def test_creator_has_no_privilege_once_there_are_levels(self, version: str) -> None:
        room = Room(version)
        levels = PowerLevels.of_events(room.power_levels(bob=5), room.create)
        assert levels.user_level(ALICE) == 0

    def test_version_12_creators(self) -> None:
        room = Room("12", create={"additional_creators": [BOB, 4]})
        levels = PowerLevels.of_events(room.power_levels({"users_default": 3}), room.create)
        assert levels.user_level(ALICE) == levels.user_level(BOB) == CREATOR_LEVEL > 2**53
        assert levels.user_level(CAROL) == 3
        assert levels.may_send(BOB, "m.room.tombstone", is_state=True)
        assert not levels.may_send(CAROL, "m.room.tombstone", is_state=True)


def changes(version: str, before: dict[str, Any] | None, after: dict[str, Any], bob: int = 50) -> bool:
    """Whether Bob, at level `bob`, may change the power levels from `before` (`None`: no event) to `after`."""
    room = public_room(version, BOB)
    if before is None:
        del room.state["m.room.power_levels", ""]
        room.state["m.room.create", ""].pdu["content"]["creator"] = BOB
        sender = ALICE if int(version) >= 11 else BOB
        if int(version) >= 11:
            room.member(ALICE, "join")
    else:
        sender = BOB
        users = {BOB: bob, **before.get("users", {})}
        room.power_levels({"events": {"m.room.power_levels": 0}, **before, "users": users})
        after = {"events": {"m.room.power_levels": 0}, **after}
        after["users"] = {BOB: bob, **after.get("users", {})} if "users" in after else users
        for key, value in list(after["users"].items()):
            if value == "gone":
                del after["users"][key]
    event = room.event("m.room.power_levels", sender, after, "")
    try:
        check_event_auth(event, room.state)
    except AuthError:
        return False
    return True


NAMED = tuple(DEFAULT_LEVELS)
PL = {"m.room.power_levels": 0}


class TestForm:
    @every_version
    def test_users_must_be_users_with_levels(self, version: str) -> None:
        lenient = int(version) < 10
        for users, expected in (
            ({CAROL: 1}, True),
            ({CAROL: "1"}, lenient),
            ({CAROL: 1.5}, int(version) < 6),
            ({CAROL: "x"}, False),
            ({CAROL: None}, False),
            ({CAROL: True}, False),
            ({"carol": 1}, False),
            ({"@carol": 1}, False),
            ({"@": 1}, False),
            ([], False),
            (None, False),
        ):
            assert changes(version, None, {"users": users}) is expected, users
        assert changes(version, None, {})

    @every_version
    @pytest.mark.parametrize("name", NAMED)
    @pytest.mark.parametrize("value", ["50", 50.0, True, None, "x"])
    def test_named_levels_are_integers_from_version_10(self, version: str, name: str, value: object) -> None:
        assert changes(version, None, {name: value}) is (int(version) < 10)

    @every_version
    @pytest.mark.parametrize("name", ["events", "notifications"])
    @pytest.mark.parametrize("value", [{"k": "50"}, {"k": 1.0}, {"k": False}, [], None, 5])
    def test_maps_hold_integers_from_version_10(self, version: str, name: str, value: object) -> None:
        assert changes(version, None, {name: value}) is (int(version) < 10)

    @pytest.mark.parametrize("version", versions(1, 9))
    @pytest.mark.parametrize(
        "after",
        [{"ban": "x"}, {"ban": None}, {"events": []}, {"events": {**PL, "m.t": "x"}}, {"events": None}],
    )
    def test_a_change_to_no_level_is_refused(self, version: str, after: dict[str, Any]) -> None:
        assert not changes(version, {}, after)

    @pytest.mark.parametrize("user", [ALICE, BOB])
    @pytest.mark.parametrize("level", [0, 100])
    def test_version_12_creators_have_no_entry(self, user: str, level: int) -> None:
        room = Room("12", create={"additional_creators": [BOB]})
        room.member(ALICE, "join")
        with pytest.raises(AuthError):
            check_event_auth(
                room.event("m.room.power_levels", ALICE, {"users": {user: level}}, ""), room.state
            )


@every_version
class TestChanges:
    @pytest.mark.parametrize("name", NAMED)
    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            (50, 49, True),
            (49, 50, True),
            (50, 51, False),
            (51, 50, False),
            (None, 50, True),
            (None, 51, False),
            (50, None, True),
            (51, None, False),
            (51, 51, True),
        ],
    )
    def test_named(
        self, version: str, name: str, before: int | None, after: int | None, expected: bool
    ) -> None:
        old = {} if before is None else {name: before}
        new = {} if after is None else {name: after}
        assert changes(version, old, new) is expected

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ({}, {"k": 50}, True),
            ({}, {"k": 51}, False),
            ({"k": 50}, {"k": 49}, True),
            ({"k": 50}, {}, True),
            ({"k": 51}, {}, False),
            ({"k": 51}, {"k": 50}, False),
            ({"k": 51}, {"k": 51}, True),
        ],
    )
    def test_events_and_notifications(
        self, version: str, before: dict[str, int], after: dict[str, int], expected: bool
    ) -> None:
        assert changes(version, {"events": {**PL, **before}}, {"events": {**PL, **after}}) is expected
        limited = int(version) >= 6
        assert changes(version, {"notifications": before}, {"notifications": after}) is (
            expected or not limited
        )

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ({}, {CAROL: 50}, True),
            ({}, {CAROL: 51}, False),
            ({CAROL: 49}, {CAROL: 50}, True),
            ({CAROL: 49}, {CAROL: "gone"}, True),
            ({CAROL: 50}, {CAROL: 49}, False),
            ({CAROL: 50}, {CAROL: "gone"}, False),
            ({CAROL: 50}, {CAROL: 50}, True),
            ({CAROL: 99}, {CAROL: 99, "@new:x.example": 50}, True),
            ({}, {BOB: 49}, True),
            ({}, {BOB: 51}, False),
            ({}, {BOB: "gone"}, True),
        ],
    )
    def test_users(self, version: str, before: dict[str, Any], after: dict[str, Any], expected: bool) -> None:
        assert changes(version, {"users": before}, {"users": {**before, **after}}) is expected


@pytest.mark.parametrize("version", versions(1, 9))
def test_another_spelling_of_a_level_is_no_change(version: str) -> None:
    assert changes(version, {"ban": "99", "users": {CAROL: "050"}}, {"ban": 99, "users": {CAROL: 50}})


def test_version_12_creators_may_set_any_level() -> None:
    room = public_room("12", BOB)
    room.power_levels({"ban": 2**53 - 1}, bob=2**53 - 1)
    check_event_auth(room.event("m.room.power_levels", ALICE, {"users": {BOB: 0}}, ""), room.state)
