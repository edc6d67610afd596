# SPDX-License-Identifier: Apache-2.0
"""Creation, the rules for every type, redactions, and the auth events an event cites."""

from typing import Any

import pytest

from homeserver.protocol.event_auth import (
    AuthError,
    auth_types_for,
    check_auth_events,
    check_event_auth,
    redaction_applies,
)
from homeserver.protocol.events import Event
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.room_versions import ROOM_VERSIONS
from tests.protocol.rooms import ALICE, ALL_VERSIONS, BOB, CAROL, DAVE, Room, public_room, versions

every_version = pytest.mark.parametrize("version", ALL_VERSIONS)


def allowed(room: Room, event: Event) -> bool:
    try:
        check_event_auth(event, room.state)
    except AuthError:
        return False
    return True


def creates(version: str, sender: str = ALICE, prev: tuple[str, ...] = (), **content: Any) -> bool:
    """Whether a create event with this content (version and creator filled in) is allowed."""
    room = Room(version)
    content = {"room_version": version, **content}
    if ROOM_VERSIONS[version].create_has_creator:
        content.setdefault("creator", sender)
    return allowed(room, room.event("m.room.create", sender, content, "", prev=prev))


class TestCreate:
    @every_version
    def test_plain(self, version: str) -> None:
        assert creates(version)

    @every_version
    def test_no_previous_events(self, version: str) -> None:
        assert not creates(version, prev=("$x",))

    @every_version
    @pytest.mark.parametrize("named", ["99", "", 12, None, ["1"]])
    def test_unrecognised_room_version(self, version: str, named: object) -> None:
        assert not creates(version, room_version=named)

    def test_absent_room_version_means_1(self) -> None:
        room = Room("1")
        assert allowed(room, room.event("m.room.create", ALICE, {"creator": ALICE}, "", prev=()))

    @pytest.mark.parametrize("version", versions(1, 11))
    def test_room_id_is_of_the_senders_domain(self, version: str) -> None:
        assert not creates(version, sender=BOB)

    @every_version
    def test_creator_is_required_before_version_11(self, version: str) -> None:
        room = Room(version)
        event = room.event("m.room.create", ALICE, {"room_version": version}, "", prev=())
        assert allowed(room, event) is (int(version) >= 11)

    def test_version_12_has_no_room_id(self) -> None:
        room = Room("12")
        event = room.event("m.room.create", ALICE, {"room_version": "12"}, "", prev=())
        event.pdu["room_id"] = event.room_id
        assert not allowed(room, event)

    @pytest.mark.parametrize(
        ("creators", "expected"),
        [
            ([], True),
            ([BOB, CAROL], True),
            (["@historical user!:x.example"], True),
            (["bob"], False),
            (["@bob"], False),
            (["@bob:"], False),
            (["@" + "b" * 255 + ":x"], False),
            ([BOB, 4], False),
            (BOB, False),
            ({BOB: 1}, False),
            (None, False),
        ],
    )
    def test_additional_creators(self, creators: object, expected: bool) -> None:
        assert creates("12", additional_creators=creators) is expected
        assert creates("11", additional_creators=creators)


class TestRoom:
    @every_version
    def test_needs_the_create_event(self, version: str) -> None:
        room = public_room(version)
        event = room.event("m.room.message", ALICE, {})
        assert allowed(room, event)
        del room.state["m.room.create", ""]
        assert not allowed(room, event)

    @every_version
    def test_of_this_room(self, version: str) -> None:
        room, other = public_room(version), public_room(version)
        room.room_id = "!other:alice.example" if ":" in room.room_id else "!other"
        assert not allowed(other, room.event("m.room.message", ALICE, {}))

    @every_version
    @pytest.mark.parametrize(
        ("federate", "expected"), [(False, False), (True, True), ("false", True), (None, True)]
    )
    def test_federation_may_be_off(self, version: str, federate: object, expected: bool) -> None:
        room = Room(version, create={"m.federate": federate})
        room.member(ALICE, "join")
        room.join_rules("public")
        assert allowed(room, room.member_event(BOB, "join")) is expected
        assert allowed(room, room.member_event("@anne:alice.example", "join"))

    @every_version
    @pytest.mark.parametrize("membership", [None, "leave", "invite", "knock", "ban"])
    def test_senders_are_joined(self, version: str, membership: str | None) -> None:
        room = public_room(version)
        if membership is not None:
            room.member(BOB, membership, by=ALICE)
        assert not allowed(room, room.event("m.room.message", BOB, {}))
        room.member(BOB, "join")
        assert allowed(room, room.event("m.room.message", BOB, {}))


class TestAliases:
    @pytest.mark.parametrize("version", versions(1, 5))
    def test_own_rule(self, version: str) -> None:
        room = public_room(version)
        assert allowed(room, room.event("m.room.aliases", BOB, {}, "bob.example"))
        assert not allowed(room, room.event("m.room.aliases", BOB, {}, "alice.example"))
        assert not allowed(room, room.event("m.room.aliases", BOB, {}))

    @pytest.mark.parametrize("version", versions(6))
    def test_as_any_state_from_version_6(self, version: str) -> None:
        room = public_room(version, BOB)
        assert not allowed(room, room.event("m.room.aliases", BOB, {}, "bob.example"))
        assert allowed(room, room.event("m.room.aliases", ALICE, {}, "bob.example"))


@every_version
class TestRequiredLevel:
    @pytest.mark.parametrize(
        ("levels", "state_key", "bob", "expected"),
        [
            ({}, None, 0, True),
            ({"events_default": 1}, None, 0, False),
            ({"events_default": 1, "events": {"x.type": 0}}, None, 0, True),
            ({}, "", 49, False),
            ({}, "", 50, True),
            ({"state_default": 0}, "", 0, True),
            ({"events": {"x.type": 0}}, "", 0, True),
            ({"events": {"x.type": 51}}, "", 50, False),
            ({}, BOB, 50, True),
            ({}, CAROL, 50, False),
            ({}, "@not a user id", 50, False),
            ({}, "about @bob", 50, True),
        ],
    )
    def test_table(
        self, version: str, levels: dict[str, Any], state_key: str | None, bob: int, expected: bool
    ) -> None:
        room = public_room(version, BOB)
        room.power_levels(levels, alice=100, bob=bob)
        assert allowed(room, room.event("x.type", BOB, {}, state_key)) is expected

    @pytest.mark.parametrize(("invite", "expected"), [(0, True), (1, False)])
    def test_third_party_invites_take_the_invite_level(
        self, version: str, invite: int, expected: bool
    ) -> None:
        room = public_room(version, BOB)
        room.power_levels({"invite": invite, "events": {"m.room.third_party_invite": 99}}, alice=100)
        assert allowed(room, room.event("m.room.third_party_invite", BOB, {}, "@token")) is expected


class TestRedaction:
    @pytest.mark.parametrize("version", versions(1, 2))
    @pytest.mark.parametrize(
        ("bob", "redacts", "expected"),
        [
            (50, "$e:carol.example", True),
            (0, "$e:carol.example", False),
            (0, "$e:bob.example", True),
            (0, "$e", False),
        ],
    )
    def test_rule_of_versions_1_and_2(self, version: str, bob: int, redacts: str, expected: bool) -> None:
        room = public_room(version, BOB)
        room.power_levels(alice=100, bob=bob)
        event = room.event("m.room.redaction", BOB, {}, redacts=redacts, event_id="$r:bob.example")
        assert allowed(room, event) is expected

    @pytest.mark.parametrize("version", versions(3))
    def test_no_rule_from_version_3(self, version: str) -> None:
        room = public_room(version, BOB)
        assert allowed(room, room.event("m.room.redaction", BOB, {}, redacts="$e"))

    @pytest.mark.parametrize("version", versions(3))
    @pytest.mark.parametrize(
        ("bob", "author", "applies"), [(50, CAROL, True), (49, CAROL, False), (0, "@b:bob.example", True)]
    )
    def test_application(self, version: str, bob: int, author: str, applies: bool) -> None:
        room = public_room(version, BOB, author)
        room.power_levels(alice=100, bob=bob)
        target = room.send("m.room.message", author, {})
        redaction = room.event("m.room.redaction", BOB, {}, redacts=target.event_id)
        levels = PowerLevels.of_events(room.state["m.room.power_levels", ""], room.create)
        assert redaction_applies(redaction, target, levels) is applies
        assert not redaction_applies(redaction, room.create, levels)


Selection = tuple[str, str, str | None, dict[str, Any], set[tuple[str, str]]]

SELECTIONS: list[Selection] = [
    ("m.room.message", ALICE, None, {}, set()),
    ("m.room.topic", ALICE, "", {}, set()),
    ("m.room.member", ALICE, ALICE, {"membership": "leave"}, set()),
    ("m.room.member", ALICE, BOB, {"membership": "ban"}, {("m.room.member", BOB)}),
    ("m.room.member", BOB, BOB, {"membership": "join"}, {("m.room.join_rules", "")}),
    ("m.room.member", BOB, BOB, {"membership": "knock"}, {("m.room.join_rules", "")}),
    (
        "m.room.member",
        ALICE,
        BOB,
        {"membership": "invite", "third_party_invite": {"signed": {"token": "tok"}}},
        {("m.room.member", BOB), ("m.room.join_rules", ""), ("m.room.third_party_invite", "tok")},
    ),
    (
        "m.room.member",
        ALICE,
        BOB,
        {"membership": "invite", "third_party_invite": {"signed": {"token": 1}}},
        {("m.room.member", BOB), ("m.room.join_rules", "")},
    ),
]


class TestSelection:
    @every_version
    @pytest.mark.parametrize("selection", SELECTIONS)
    def test_table(self, version: str, selection: Selection) -> None:
        event_type, sender, state_key, content, more = selection
        keys = auth_types_for(ROOM_VERSIONS[version], event_type, sender, state_key, content)
        expected = {("m.room.power_levels", ""), ("m.room.member", sender)} | more
        if version != "12":
            expected.add(("m.room.create", ""))
        assert set(keys) == expected
        assert len(keys) == len(expected)

    @every_version
    def test_authoriser_of_a_restricted_join(self, version: str) -> None:
        content = {"membership": "join", "join_authorised_via_users_server": DAVE}
        keys = auth_types_for(ROOM_VERSIONS[version], "m.room.member", BOB, BOB, content)
        assert (("m.room.member", DAVE) in keys) is (int(version) >= 8)
        content["membership"] = "leave"
        assert ("m.room.member", DAVE) not in auth_types_for(
            ROOM_VERSIONS[version], "m.room.member", BOB, BOB, content
        )

    @every_version
    def test_create_has_none(self, version: str) -> None:
        assert auth_types_for(ROOM_VERSIONS[version], "m.room.create", ALICE, "", {}) == []


@every_version
class TestCitedEvents:
    def check(self, room: Room, event: Event, cited: list[Event], *rejected: str) -> bool:
        try:
            check_auth_events(event, cited, set(rejected))
        except AuthError:
            return False
        return True

    def setup(self, version: str) -> tuple[Room, Event, list[Event]]:
        room = public_room(version, BOB)
        event = room.event("m.room.message", BOB, {})
        return room, event, [room.events[event_id] for event_id in event.auth_event_ids]

    def test_as_selected(self, version: str) -> None:
        room, event, cited = self.setup(version)
        assert self.check(room, event, cited)
        assert self.check(room, room.create, [])

    def test_duplicates(self, version: str) -> None:
        room, event, cited = self.setup(version)
        assert not self.check(room, event, [*cited, room.member(BOB, "join")])

    def test_unexpected(self, version: str) -> None:
        room, event, cited = self.setup(version)
        assert not self.check(room, event, [*cited, room.state["m.room.join_rules", ""]])
        assert not self.check(room, event, [*cited, room.state["m.room.member", ALICE]])
        assert not self.check(room, event, [*cited, room.send("m.room.message", ALICE, {})])

    def test_create_event(self, version: str) -> None:
        room, event, cited = self.setup(version)
        without = [each for each in cited if each.type != "m.room.create"]
        assert self.check(room, event, without) is (version == "12")
        assert self.check(room, event, [room.create, *without]) is (version != "12")

    def test_rejected(self, version: str) -> None:
        room, event, cited = self.setup(version)
        assert not self.check(room, event, cited, cited[-1].event_id)
        assert not self.check(room, event, cited, room.create.event_id)
        assert self.check(room, event, cited, "$unrelated")

    def test_of_another_room(self, version: str) -> None:
        room, event, cited = self.setup(version)
        room.room_id = "!other:alice.example" if ":" in room.room_id else "!other"
        assert not self.check(room, event, [*cited[:-1], room.member(BOB, "join")])
