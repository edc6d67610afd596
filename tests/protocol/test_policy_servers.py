# SPDX-License-Identifier: Apache-2.0
"""Policy servers: which rooms use one, which events need its signature, and what counts as that."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol.errors import SignatureError
from homeserver.protocol.events import Event
from homeserver.protocol.policy_servers import PolicyServer, needs_recommendation, with_recommendation
from homeserver.protocol.room_versions import RoomVersion, room_version
from homeserver.protocol.signing import POLICY_KEY_ID, SigningKey, check_event_signatures, sign_pdu
from tests.protocol.pdus import ALL_VERSIONS, a_pdu

KEY = SigningKey.from_seed(POLICY_KEY_ID, bytes(range(32)))
OTHER = SigningKey.from_seed(POLICY_KEY_ID, bytes(range(1, 33)))
PUBLIC = KEY.verify_key.to_base64()
VIA = "policy.example"


def content(**changes: Any) -> dict[str, Any]:
    return {"via": VIA, "public_keys": {"ed25519": PUBLIC}} | changes


def policy_server(**changes: Any) -> PolicyServer:
    found = PolicyServer.from_content(content(**changes))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("written", "valid"),
    [
        (content(), True),
        (content(public_keys={"ed25519": PUBLIC, "other": 7}), True),
        (content(public_keys={"ed25519": "no key, but a string"}), True),
        ({}, False),
        (content(via=None), False),
        (content(via=["policy.example"]), False),
        (content(public_keys=None), False),
        (content(public_keys=PUBLIC), False),
        (content(public_keys={}), False),
        (content(public_keys={"ed25519": None}), False),
        (content(public_keys={"ed25519": {"key": PUBLIC}}), False),
        ({"via": VIA, "public_key": PUBLIC}, False),
    ],
)
def test_which_contents_name_one(written: dict[str, Any], valid: bool) -> None:
    assert (PolicyServer.from_content(written) is not None) is valid


def test_it_must_have_somebody_in_the_room() -> None:
    assert policy_server().is_enabled({"a.example": 1, VIA: 2})
    assert not policy_server().is_enabled({"a.example": 1, "policy.example:8448": 1})
    assert not policy_server(via="").is_enabled({"a.example": 1})


@pytest.mark.parametrize(
    ("event_type", "state_key", "needs"),
    [
        ("m.room.policy", "", False),
        ("m.room.policy", None, True),
        ("m.room.policy", "x", True),
        ("m.room.member", "@a:b", True),
        ("m.room.power_levels", "", True),
        ("m.room.message", None, True),
        ("org.matrix.dummy_event", None, True),
    ],
)
def test_which_events_need_it(event_type: str, state_key: str | None, needs: bool) -> None:
    assert needs_recommendation(event_type, state_key) is needs


def signed(version: RoomVersion, key: SigningKey = KEY, server_name: str = VIA) -> Event:
    return Event.from_pdu(sign_pdu(a_pdu(version), version, server_name, key), version)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_its_signature(version: RoomVersion) -> None:
    """It is of the redacted event, by the room's key, under its name and the one key id."""
    good = signed(version)
    assert policy_server().recommends(good)
    assert policy_server(public_keys={"ed25519": PUBLIC + "="}).recommends(good)
    bare = Event.from_pdu(a_pdu(version), version)
    assert policy_server().recommends(
        with_recommendation(bare, VIA, good.pdu["signatures"][VIA][POLICY_KEY_ID])
    )
    lengthened = Event.from_pdu({**good.pdu, "content": {**good.pdu["content"], "more": 1}}, version)
    assert policy_server().recommends(lengthened), "redaction leaves the same"
    for bad in (
        bare,
        signed(version, OTHER),
        signed(version, server_name="other.example"),
        signed(version, SigningKey.from_seed("ed25519:other", bytes(range(32)))),
        Event.from_pdu({**good.pdu, "depth": 8}, version),
        with_recommendation(good, VIA, "not Base64 \N{SNOWMAN}"),
    ):
        assert not policy_server().recommends(bad)


@pytest.mark.parametrize("text", ["", "AAAA", "\N{SNOWMAN}" * 43, "A" * 43])
def test_nothing_is_signed_by_what_is_no_key(text: str) -> None:
    assert not policy_server(public_keys={"ed25519": text}).recommends(signed(room_version("11")))


def test_other_signatures_are_kept() -> None:
    """Above all the policy server's own, by which it sends events of its users."""
    version = room_version("11")
    own = SigningKey.from_seed("ed25519:1", bytes(32))
    event = Event.from_pdu(sign_pdu(a_pdu(version), version, VIA, own), version)
    both = with_recommendation(event, VIA, "c2ln")
    assert both.event_id == event.event_id
    assert both.pdu["signatures"] == {
        **event.pdu["signatures"],
        VIA: {**event.pdu["signatures"][VIA], POLICY_KEY_ID: "c2ln"},
    }
    assert POLICY_KEY_ID not in event.pdu["signatures"][VIA]


def test_it_proves_no_origin() -> None:
    """A recommendation is no signature of the sender's server, even where that publishes the key."""
    version = room_version("11")
    event = Event.from_pdu(
        {**sign_pdu(a_pdu(version, sender=f"@bot:{VIA}", signatures={}), version, VIA, KEY)}, version
    )
    with pytest.raises(SignatureError):
        check_event_signatures(event, {VIA: {POLICY_KEY_ID: KEY.verify_key}})
