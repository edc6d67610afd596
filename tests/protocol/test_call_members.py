# SPDX-License-Identifier: Apache-2.0
"""Whose a part in a group call is, by its state key, and who may write it: MSC3757 on keys that begin with `_@`."""

from __future__ import annotations

import pytest

from homeserver.protocol.call_members import check_call_member, owner_of
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.event_auth import AuthError
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.room_versions import ROOM_VERSIONS

CALL = "org.matrix.msc3401.call.member"
ALICE, BOB, MODERATOR, OTHER_MODERATOR, CREATOR = (
    f"@{name}:example.org" for name in ("alice", "bob", "moderator", "other", "creator")
)


@pytest.mark.parametrize(
    ("state_key", "owner"),
    [
        ("_@bob:example.org", BOB),
        ("_@bob:example.org_", BOB),
        ("_@bob:example.org_DEVICE_m.call", BOB),
        ("_@bob:example.org_@alice:example.org", BOB),
        ("_@bob:example.org.evil.com_DEVICE", "@bob:example.org.evil.com"),
        ("_@b_o_b:example.org_DEVICE", "@b_o_b:example.org"),
        ("_@bob:example.org:8448_DEVICE_m.call", "@bob:example.org:8448"),
        ("_@bob:[2001:db8::1]:8448_DEVICE", "@bob:[2001:db8::1]:8448"),
        ("_@BOB/old=name:example.org_DEVICE", "@BOB/old=name:example.org"),
        ("", None),
        ("_", None),
        ("bob", None),
        ("__@bob:example.org_DEVICE", None),
        ("@bob:example.org", None),  # every room version's own rule
    ],
)
def test_the_owner_stands_in_the_key(state_key: str, owner: str | None) -> None:
    """Up to the first underscore that can be in no server name."""
    assert owner_of(state_key) == owner


@pytest.mark.parametrize(
    "state_key",
    ["_@", "_@bob", "_@bob_DEVICE", "_@bob:_DEVICE", "_@bob:example.org/_DEVICE", "_@bob:example.org DEVICE"],
)
def test_what_names_no_user_is_nobodys(state_key: str) -> None:
    """And so may be written by nobody."""
    with pytest.raises(IdentifierError):
        owner_of(state_key)
    with pytest.raises(AuthError, match="nobody"):
        check_call_member(CALL, state_key, CREATOR, levels("11"))


def levels(version: str) -> PowerLevels:
    users = {MODERATOR: 50, OTHER_MODERATOR: 50} | ({CREATOR: 100} if version == "11" else {})
    return PowerLevels(ROOM_VERSIONS[version], {"users": users}, frozenset((CREATOR,)))


@pytest.mark.parametrize("version", ["11", "12"])
@pytest.mark.parametrize("event_type", ["m.call.member", CALL])
@pytest.mark.parametrize(
    ("sender", "owner", "may"),
    [
        (BOB, BOB, True),
        (ALICE, BOB, False),
        (MODERATOR, BOB, True),
        (MODERATOR, MODERATOR, True),
        (MODERATOR, OTHER_MODERATOR, False),
        (BOB, MODERATOR, False),
        (MODERATOR, CREATOR, False),
        (CREATOR, MODERATOR, True),
    ],
)
def test_only_its_user_and_those_above_may_write_it(
    version: str, event_type: str, sender: str, owner: str, may: bool
) -> None:
    """More power is needed than the owner has; as much is not enough."""

    def write(kind: str) -> None:
        check_call_member(kind, f"_{owner}_DEVICE_m.call", sender, levels(version))

    if may:
        write(event_type)
    else:
        with pytest.raises(AuthError, match="another user's"):
            write(event_type)
    write("org.example.other")  # nobody else's types are held to it
