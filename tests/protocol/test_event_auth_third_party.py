# SPDX-License-Identifier: Apache-2.0
"""Third-party invites: the steps of the rule, one by one, with real signatures."""

from typing import Any

import pytest

from homeserver.protocol.event_auth import AuthError, check_event_auth
from homeserver.protocol.event_auth.third_party_invite import _MOST_VERIFICATIONS
from homeserver.protocol.signing import SigningKey, sign_json
from tests.protocol.rooms import ALICE, ALL_VERSIONS, BOB, CAROL, Room, public_room

KEY = SigningKey.from_seed("ed25519:0", b"\x01" * 32)
OTHER_KEY = SigningKey.from_seed("ed25519:0", b"\x02" * 32)


def issued(version: str, **content: Any) -> Room:
    """A room where Alice has issued the token `tok`."""
    room = public_room(version)
    content = content or {"public_key": KEY.verify_key.to_base64()}
    room.send("m.room.third_party_invite", ALICE, {"display_name": "b", **content}, "tok")
    return room


def signed(key: SigningKey = KEY, mxid: str = BOB, token: str = "tok") -> dict[str, Any]:
    return sign_json({"mxid": mxid, "token": token}, "id.example", key)


def redeems(room: Room, invite: Any, *, by: str = ALICE, target: str = BOB) -> bool:
    try:
        check_event_auth(room.member_event(target, "invite", by=by, third_party_invite=invite), room.state)
    except AuthError:
        return False
    return True


@pytest.mark.parametrize("version", ALL_VERSIONS)
class TestRedeeming:
    def test_with_a_good_signature(self, version: str) -> None:
        assert redeems(issued(version), {"display_name": "b", "signed": signed()})

    def test_after_the_inviter_has_left(self, version: str) -> None:
        room = issued(version)
        room.member(ALICE, "leave")
        assert redeems(room, {"signed": signed()})

    def test_not_for_the_banned(self, version: str) -> None:
        room = issued(version)
        room.member(BOB, "ban", by=ALICE)
        assert not redeems(room, {"signed": signed()})

    def test_not_for_another_user_or_token(self, version: str) -> None:
        assert not redeems(issued(version), {"signed": signed(mxid=CAROL)})
        assert not redeems(issued(version), {"signed": signed(token="other")})

    def test_not_by_another_sender(self, version: str) -> None:
        room = issued(version)
        room.member(CAROL, "join")
        assert not redeems(room, {"signed": signed()}, by=CAROL)

    @pytest.mark.parametrize(
        "invite",
        [
            None,
            {},
            {"signed": None},
            {"signed": {}},
            {"signed": {"token": "tok"}},
            {"signed": {"mxid": BOB}},
            {"signed": {"mxid": BOB, "token": ["tok"], "signatures": {}}},
            {"signed": {"mxid": BOB, "token": "tok"}},
            {"signed": {"mxid": BOB, "token": "tok", "signatures": []}},
            {"signed": {"mxid": BOB, "token": "tok", "signatures": {"s": {"ed25519:0": 4}}}},
            {"signed": {"mxid": BOB, "token": "tok", "signatures": {"s": {"ed25519:0": "????"}}}},
        ],
    )
    def test_malformed(self, version: str, invite: Any) -> None:
        assert not redeems(issued(version), invite)

    def test_the_signature_must_be_by_an_issued_key(self, version: str) -> None:
        assert not redeems(issued(version), {"signed": signed(OTHER_KEY)})

    def test_the_signature_must_be_ed25519(self, version: str) -> None:
        proof = signed()
        proof["signatures"] = {"id.example": {"rsa:0": proof["signatures"]["id.example"]["ed25519:0"]}}
        assert not redeems(issued(version), {"signed": proof})


class TestKeys:
    def test_any_of_public_keys_counts(self) -> None:
        keys = [{"public_key": "junk"}, {}, 3, {"public_key": KEY.verify_key.to_base64()}]
        room = issued("12", public_key=OTHER_KEY.verify_key.to_base64(), public_keys=keys)
        assert redeems(room, {"signed": signed()})
        assert redeems(room, {"signed": signed(OTHER_KEY)})

    def test_url_safe_base64_counts(self) -> None:
        for seed in range(64):
            key = SigningKey.from_seed("ed25519:0", bytes([seed]) * 32)
            text = key.verify_key.to_base64()
            if "+" in text and "/" in text:
                break
        room = issued("12", public_key=text.replace("+", "-").replace("/", "_"))
        assert redeems(room, {"signed": signed(key)})

    def test_work_is_bounded(self) -> None:
        proof = signed()
        proof["signatures"]["flood"] = {f"ed25519:{n}": f"{n:086}" for n in range(_MOST_VERIFICATIONS)}
        assert not redeems(issued("12"), {"signed": proof})
