# SPDX-License-Identifier: Apache-2.0
"""The rule for `m.room.member`, each branch in each version it is in."""

import pytest

from homeserver.protocol.event_auth import AuthError, check_event_auth
from homeserver.protocol.events import Event
from tests.protocol.rooms import ALICE, ALL_VERSIONS, BOB, CAROL, DAVE, Room, public_room, versions

every_version = pytest.mark.parametrize("version", ALL_VERSIONS)


def allowed(room: Room, event: Event) -> bool:
    """Whether the event is authorized against the room's current state."""
    try:
        check_event_auth(event, room.state)
    except AuthError as error:
        assert str(error)
        return False
    return True


def in_membership(version: str, membership: str | None, rule: str = "invite") -> Room:
    """A room where Alice (100) is admin, Dave (50) moderates, and Bob has had `membership` put into the
    state.
    """
    room = public_room(version, DAVE, dave=50)
    room.join_rules(rule)
    if membership is not None:
        room.member(BOB, membership, by=ALICE)
    return room


class TestForm:
    @every_version
    def test_needs_a_state_key(self, version: str) -> None:
        room = public_room(version)
        assert not allowed(room, room.event("m.room.member", ALICE, {"membership": "join"}))

    @every_version
    @pytest.mark.parametrize(
        "content", [{}, {"membership": "dance"}, {"membership": 1}, {"membership": ["join"]}]
    )
    def test_needs_a_known_membership(self, version: str, content: dict[str, object]) -> None:
        room = public_room(version)
        assert not allowed(room, room.event("m.room.member", ALICE, content, ALICE))


class TestFirstJoin:
    @every_version
    def test_creator_joins_on_the_create_event(self, version: str) -> None:
        room = Room(version)
        assert allowed(room, room.member_event(ALICE, "join"))

    @every_version
    def test_nobody_else_does(self, version: str) -> None:
        room = Room(version)
        assert not allowed(room, room.member_event(BOB, "join"))

    @every_version
    def test_only_with_the_create_event_as_sole_previous_event(self, version: str) -> None:
        room = Room(version)
        create = room.create.event_id
        content = {"membership": "join"}
        later = room.event("m.room.member", ALICE, content, ALICE, prev=[room.id("other")])
        both = room.event("m.room.member", ALICE, content, ALICE, prev=[create, room.id("other")])
        assert not allowed(room, later)
        assert not allowed(room, both)

    @pytest.mark.parametrize("version", versions(1, 10))
    def test_content_names_the_creator_before_version_11(self, version: str) -> None:
        room = Room(version, create={"creator": BOB})
        assert allowed(room, room.member_event(BOB, "join"))
        assert not allowed(room, room.member_event(ALICE, "join"))

    @pytest.mark.parametrize("version", versions(11))
    def test_sender_is_the_creator_from_version_11(self, version: str) -> None:
        room = Room(version, create={"creator": BOB})
        assert allowed(room, room.member_event(ALICE, "join"))
        assert not allowed(room, room.member_event(BOB, "join"))

    def test_additional_creators_need_an_invite(self) -> None:
        room = Room("12", create={"additional_creators": [BOB]})
        assert not allowed(room, room.member_event(BOB, "join"))


KNOCKING = (*versions(7),)
JOIN_CASES = [
    # join rule, first version it works in, memberships from which one may join
    ("public", 1, {None, "leave", "invite", "join", "knock"}),
    ("invite", 1, {"invite", "join"}),
    ("knock", 7, {"invite", "join"}),
    ("restricted", 8, {"invite", "join"}),
    ("knock_restricted", 10, {"invite", "join"}),
    ("private", 99, set()),
    ("nonsense", 99, set()),
]


class TestJoin:
    @every_version
    @pytest.mark.parametrize("membership", [None, "leave", "invite", "join", "knock", "ban"])
    @pytest.mark.parametrize(("rule", "since", "from_memberships"), JOIN_CASES)
    def test_join_rules(
        self,
        version: str,
        membership: str | None,
        rule: str,
        since: int,
        from_memberships: set[str | None],
    ) -> None:
        room = in_membership(version, membership, rule)
        expected = int(version) >= since and membership in from_memberships
        assert allowed(room, room.member_event(BOB, "join")) is expected

    @every_version
    def test_no_join_rules_mean_invite(self, version: str) -> None:
        room = in_membership(version, None)
        del room.state["m.room.join_rules", ""]
        assert not allowed(room, room.member_event(BOB, "join"))
        room.member(BOB, "invite", by=ALICE)
        assert allowed(room, room.member_event(BOB, "join"))

    @every_version
    @pytest.mark.parametrize("rule", [None, 1, ["public"], {"public": True}])
    def test_a_join_rule_that_is_no_string_lets_nobody_join(self, version: str, rule: object) -> None:
        room = in_membership(version, "invite")
        room.join_rules(rule)
        assert not allowed(room, room.member_event(BOB, "join"))

    @every_version
    def test_not_for_another(self, version: str) -> None:
        room = public_room(version, BOB)
        assert not allowed(room, room.member_event(CAROL, "join", by=BOB))


RESTRICTED = [
    (rule, version)
    for rule, first in (("restricted", 8), ("knock_restricted", 10))
    for version in versions(first)
]


@pytest.mark.parametrize(("rule", "version"), RESTRICTED)
class TestRestrictedJoin:
    def test_by_a_member_who_may_invite(self, rule: str, version: str) -> None:
        room = in_membership(version, None, rule)
        assert allowed(room, room.member_event(BOB, "join", join_authorised_via_users_server=DAVE))
        assert not allowed(room, room.member_event(BOB, "join", join_authorised_via_users_server=CAROL))

    def test_the_authoriser_needs_the_invite_level(self, rule: str, version: str) -> None:
        room = in_membership(version, None, rule)
        room.power_levels(room.levels({"invite": 51}, alice=100, dave=50))
        assert not allowed(room, room.member_event(BOB, "join", join_authorised_via_users_server=DAVE))
        assert allowed(room, room.member_event(BOB, "join", join_authorised_via_users_server=ALICE))

    @pytest.mark.parametrize("membership", ["leave", "ban", "invite"])
    def test_the_authoriser_must_be_joined(self, rule: str, version: str, membership: str) -> None:
        room = in_membership(version, None, rule)
        room.member(DAVE, membership, by=ALICE)
        assert not allowed(room, room.member_event(BOB, "join", join_authorised_via_users_server=DAVE))

    @pytest.mark.parametrize("authoriser", [None, 7, [DAVE]])
    def test_an_authoriser_that_is_no_string_is_nobody(
        self, rule: str, version: str, authoriser: object
    ) -> None:
        room = in_membership(version, None, rule)
        assert not allowed(room, room.member_event(BOB, "join", join_authorised_via_users_server=authoriser))

    def test_not_for_the_banned(self, rule: str, version: str) -> None:
        room = in_membership(version, "ban", rule)
        assert not allowed(room, room.member_event(BOB, "join", join_authorised_via_users_server=DAVE))


class TestInvite:
    @every_version
    @pytest.mark.parametrize(
        ("membership", "expected"),
        [(None, True), ("leave", True), ("invite", True), ("knock", True), ("join", False), ("ban", False)],
    )
    def test_targets(self, version: str, membership: str | None, expected: bool) -> None:
        room = in_membership(version, membership)
        assert allowed(room, room.member_event(BOB, "invite", by=DAVE)) is expected

    @every_version
    @pytest.mark.parametrize("membership", ["leave", "invite", "ban"])
    def test_sender_must_be_joined(self, version: str, membership: str) -> None:
        room = in_membership(version, None)
        room.member(DAVE, membership, by=ALICE)
        assert not allowed(room, room.member_event(BOB, "invite", by=DAVE))

    @every_version
    @pytest.mark.parametrize(("level", "expected"), [(50, True), (51, False)])
    def test_invite_level(self, version: str, level: int, expected: bool) -> None:
        room = in_membership(version, None)
        room.power_levels(room.levels({"invite": level}, alice=100, dave=50))
        assert allowed(room, room.member_event(BOB, "invite", by=DAVE)) is expected


class TestLeave:
    @every_version
    @pytest.mark.parametrize("membership", [None, "leave", "invite", "join", "knock", "ban"])
    def test_own(self, version: str, membership: str | None) -> None:
        room = in_membership(version, membership)
        expected = membership in ("invite", "join") or (membership == "knock" and version in KNOCKING)
        assert allowed(room, room.member_event(BOB, "leave")) is expected

    @every_version
    @pytest.mark.parametrize("membership", [None, "leave", "invite", "join", "knock"])
    @pytest.mark.parametrize(
        ("kick", "bob", "expected"), [(50, 0, True), (51, 0, False), (50, 49, True), (50, 50, False)]
    )
    def test_kick(self, version: str, membership: str | None, kick: int, bob: int, expected: bool) -> None:
        room = in_membership(version, membership)
        room.power_levels(room.levels({"kick": kick}, alice=100, dave=50, bob=bob))
        assert allowed(room, room.member_event(BOB, "leave", by=DAVE)) is expected

    @every_version
    @pytest.mark.parametrize(("ban", "kick", "expected"), [(50, 50, True), (51, 50, False), (50, 51, False)])
    def test_unban_takes_ban_and_kick(self, version: str, ban: int, kick: int, expected: bool) -> None:
        room = in_membership(version, "ban")
        room.power_levels(room.levels({"ban": ban, "kick": kick}, alice=100, dave=50))
        assert allowed(room, room.member_event(BOB, "leave", by=DAVE)) is expected

    @every_version
    def test_kicker_must_be_joined(self, version: str) -> None:
        room = in_membership(version, "join")
        room.member(DAVE, "leave")
        assert not allowed(room, room.member_event(BOB, "leave", by=DAVE))


class TestBan:
    @every_version
    @pytest.mark.parametrize("membership", [None, "leave", "invite", "join", "knock", "ban"])
    @pytest.mark.parametrize(("ban", "bob", "expected"), [(50, 0, True), (51, 0, False), (50, 50, False)])
    def test_level(self, version: str, membership: str | None, ban: int, bob: int, expected: bool) -> None:
        room = in_membership(version, membership)
        room.power_levels(room.levels({"ban": ban}, alice=100, dave=50, bob=bob))
        assert allowed(room, room.member_event(BOB, "ban", by=DAVE)) is expected

    @every_version
    def test_sender_must_be_joined(self, version: str) -> None:
        room = in_membership(version, "join")
        room.member(DAVE, "leave")
        assert not allowed(room, room.member_event(BOB, "ban", by=DAVE))

    @every_version
    def test_without_power_levels_the_creator_may_and_others_not(self, version: str) -> None:
        room = Room(version)
        for user in (ALICE, BOB):
            room.member(user, "join")
        assert allowed(room, room.member_event(BOB, "ban", by=ALICE))
        assert not allowed(room, room.member_event(ALICE, "ban", by=BOB))

    def test_creators_are_beyond_each_other(self) -> None:
        room = Room("12", create={"additional_creators": [BOB]})
        for user in (ALICE, BOB, CAROL):
            room.member(user, "join")
        room.power_levels(carol=2**53 - 1)
        for sender, target in ((ALICE, BOB), (BOB, ALICE), (CAROL, BOB)):
            assert not allowed(room, room.member_event(target, "ban", by=sender))
            assert not allowed(room, room.member_event(target, "leave", by=sender))
        assert allowed(room, room.member_event(CAROL, "ban", by=BOB))


class TestKnock:
    @every_version
    @pytest.mark.parametrize("membership", [None, "leave", "invite", "join", "knock", "ban"])
    @pytest.mark.parametrize(
        ("rule", "since"),
        [("knock", 7), ("knock_restricted", 10), ("public", 99), ("invite", 99), ("restricted", 99)],
    )
    def test_rules(self, version: str, membership: str | None, rule: str, since: int) -> None:
        room = in_membership(version, membership, rule)
        expected = int(version) >= since and membership in (None, "leave", "knock")
        assert allowed(room, room.member_event(BOB, "knock")) is expected

    @pytest.mark.parametrize("version", KNOCKING)
    def test_not_for_another(self, version: str) -> None:
        room = in_membership(version, None, "knock")
        assert not allowed(room, room.member_event(BOB, "knock", by=DAVE))
