# SPDX-License-Identifier: Apache-2.0
"""History visibility: the whole decision table, and events that change the facts it rests on."""

from itertools import product

import pytest

from homeserver.protocol.membership import Membership
from homeserver.protocol.visibility import HistoryVisibility, may_see_event

WORLD, SHARED, INVITED, JOINED = HistoryVisibility
JOIN, INVITE, LEAVE, BAN, KNOCK = (Membership(name) for name in ("join", "invite", "leave", "ban", "knock"))
MEMBERSHIPS = (None, *Membership)


def expected(visibility: HistoryVisibility, membership: Membership | None, joined_later: bool) -> bool:
    """The specification's numbered rules."""
    if visibility == WORLD:
        return True
    if membership == "join":
        return True
    if visibility == SHARED and joined_later:
        return True
    return membership == "invite" and visibility == INVITED


@pytest.mark.parametrize("visibility", HistoryVisibility)
@pytest.mark.parametrize("membership", MEMBERSHIPS)
@pytest.mark.parametrize("joined_later", [False, True])
def test_ordinary_events(
    visibility: HistoryVisibility, membership: Membership | None, joined_later: bool
) -> None:
    seen = may_see_event(visibility=visibility, membership=membership, joined_later=joined_later)
    assert seen is expected(visibility, membership, joined_later)


def test_changes_of_visibility_show_under_either_setting() -> None:
    for before, after, membership, later in product(
        HistoryVisibility, HistoryVisibility, MEMBERSHIPS, (False, True)
    ):
        seen = may_see_event(
            visibility=before, visibility_after=after, membership=membership, joined_later=later
        )
        assert seen is (expected(before, membership, later) or expected(after, membership, later))


def test_own_memberships_show_under_either_membership() -> None:
    for visibility, before, after, later in product(
        HistoryVisibility, MEMBERSHIPS, Membership, (False, True)
    ):
        seen = may_see_event(
            visibility=visibility, membership=before, membership_after=after, joined_later=later
        )
        assert seen is (expected(visibility, before, later) or expected(visibility, after, later))


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        (None, JOIN, True),
        (JOIN, LEAVE, True),
        (JOIN, BAN, True),
        (INVITE, LEAVE, False),
        (None, KNOCK, False),
    ],
)
def test_own_joins_and_leaves_show_where_only_members_see(
    before: Membership | None, after: Membership, seen: bool
) -> None:
    assert (
        may_see_event(visibility=JOINED, membership=before, membership_after=after, joined_later=True) is seen
    )


@pytest.mark.parametrize(
    ("content", "visibility"),
    [
        (None, SHARED),
        ({}, SHARED),
        ({"history_visibility": "everyone"}, SHARED),
        ({"history_visibility": None}, SHARED),
        ({"history_visibility": ["joined"]}, SHARED),
        ({"history_visibility": "JOINED"}, SHARED),
        *(({"history_visibility": each.content_value}, each) for each in HistoryVisibility),
    ],
)
def test_reading(content: dict[str, object] | None, visibility: HistoryVisibility) -> None:
    assert HistoryVisibility.from_content(content) is visibility


def test_stored_numbers_and_names_are_fixed() -> None:
    assert {each.content_value: int(each) for each in HistoryVisibility} == {
        "world_readable": 0,
        "shared": 1,
        "invited": 2,
        "joined": 3,
    }


@pytest.mark.parametrize("value", [None, 1, ["join"], {}, "JOIN", ""])
def test_unknown_memberships_are_none(value: object) -> None:
    assert Membership.from_content({"membership": value}) is None
    assert Membership.from_content({}) is None


@pytest.mark.parametrize("membership", Membership)
def test_memberships_are_their_names(membership: Membership) -> None:
    assert Membership.from_content({"membership": str(membership)}) is membership
    assert membership == membership.value
