# SPDX-License-Identifier: Apache-2.0
"""Signatures: the specification's vectors, who must sign what, and what a check refuses."""

from typing import Any

import pytest
from signedjson.key import decode_signing_key_base64, get_verify_key
from signedjson.sign import sign_json as reference_sign_json
from signedjson.sign import verify_signed_json

from homeserver.protocol.errors import CanonicalJsonError, IdentifierError, SignatureError
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import content_hash
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.signing import (
    SigningKey,
    VerifyKey,
    check_event_signatures,
    check_json_signature,
    required_signing_domains,
    sign_json,
    sign_pdu,
    signing_key_ids,
)
from homeserver.protocol.unpadded_base64 import decode_base64, encode_base64
from tests.protocol.pdus import ALL_VERSIONS, KEY, a_pdu
from tests.protocol.test_hashes import VECTORS

SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
SPEC_KEY = SigningKey.from_seed("ed25519:1", decode_base64(SEED))
OTHER_KEY = SigningKey.from_seed("ed25519:k2", b"another seed of thirty-two bytes")


@pytest.mark.parametrize(
    ("value", "signature"),
    [
        ({}, "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
        (
            {"one": 1, "two": "Two"},
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ],
)
def test_json_vectors(value: dict[str, Any], signature: str) -> None:
    signed = sign_json(value, "domain", SPEC_KEY)
    assert signed == value | {"signatures": {"domain": {"ed25519:1": signature}}}
    check_json_signature(signed, "domain", {"ed25519:1": SPEC_KEY.verify_key})


@pytest.mark.parametrize(
    ("vector", "signature"),
    [
        (
            VECTORS[0],
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
        ),
        (
            VECTORS[1],
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
        ),
    ],
)
def test_event_vectors(vector: tuple[dict[str, Any], str], signature: str) -> None:
    pdu, version = vector[0], ROOM_VERSIONS["1"]
    hashed = pdu | {"hashes": {"sha256": encode_base64(content_hash(pdu, version))}}
    signed = sign_pdu(hashed, version, "domain", SPEC_KEY)
    assert signed == hashed | {"signatures": {"domain": {"ed25519:1": signature}}}


def test_the_reference_package_agrees() -> None:
    value = {"a": [1, {"é": None}], "unsigned": {"age": 1}, "signatures": {"other": {"ed25519:x": "abc"}}}
    key = decode_signing_key_base64("ed25519", "1", SEED)
    signed = sign_json(value, "domain", SPEC_KEY)
    assert signed == reference_sign_json({**value}, "domain", key)
    verify_signed_json(signed, "domain", get_verify_key(key))


def test_signatures_accumulate_and_inputs_stay() -> None:
    value = {"a": 1}
    once = sign_json(value, "domain", KEY)
    twice = sign_json(sign_json(once, "domain", OTHER_KEY), "other", KEY)
    assert value == {"a": 1}
    assert signing_key_ids(once, "domain") == ("ed25519:k1",)
    assert signing_key_ids(twice, "domain") == ("ed25519:k1", "ed25519:k2")
    keys = {"ed25519:k1": KEY.verify_key, "ed25519:k2": OTHER_KEY.verify_key}
    check_json_signature(twice, "domain", keys)
    check_json_signature(twice, "other", keys)


def test_numbers_in_signed_json() -> None:
    with pytest.raises(CanonicalJsonError):
        sign_json({"a": 1.5}, "domain", KEY)
    signed = sign_json({"a": 1.5}, "domain", KEY, strict=False)
    check_json_signature(signed, "domain", {"ed25519:k1": KEY.verify_key})


GOOD = sign_json({"a": 1}, "domain", KEY)
GOOD_SIGNATURE = GOOD["signatures"]["domain"]["ed25519:k1"]


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        [],
        {},
        {"domain": None},
        {"domain": []},
        {"domain": {}},
        {"other": {"ed25519:k1": GOOD_SIGNATURE}},
        {"domain": {"ed25519:unknown": GOOD_SIGNATURE}},
        {"domain": {"rsa:k1": GOOD_SIGNATURE}},
        {"domain": {"ed25519:k1": 1}},
        {"domain": {"ed25519:k1": ""}},
        {"domain": {"ed25519:k1": "!"}},
        {"domain": {"ed25519:k1": "AAAA"}},
        {"domain": {"ed25519:k1": "A" + GOOD_SIGNATURE[1:]}},
        {"domain": {"ed25519:k1": GOOD_SIGNATURE, "ed25519:k2": GOOD_SIGNATURE}},
    ],
)
def test_bad_signatures(signatures: Any) -> None:
    keys = {"ed25519:k1": KEY.verify_key, "ed25519:k2": OTHER_KEY.verify_key, "rsa:k1": KEY.verify_key}
    with pytest.raises(SignatureError):
        check_json_signature({"a": 1, "signatures": signatures}, "domain", keys)


def test_unknown_keys_are_skipped_and_changes_noticed() -> None:
    keys = {"ed25519:k1": KEY.verify_key}
    check_json_signature(sign_json(GOOD, "domain", OTHER_KEY), "domain", keys)
    check_json_signature(GOOD | {"unsigned": {"b": 1}}, "domain", keys)
    with pytest.raises(SignatureError):
        check_json_signature(GOOD | {"b": 1}, "domain", keys)


def test_keys_in_their_published_form() -> None:
    text = SPEC_KEY.verify_key.to_base64()
    assert VerifyKey.from_base64(text) == SPEC_KEY.verify_key
    for bad in ("", "AAAA", "!", text[:-4]):
        with pytest.raises(ValueError):
            VerifyKey.from_base64(bad)
    for key_id in ("rsa:1", "ed25519", "ed25519:a b"):
        with pytest.raises(IdentifierError):
            SigningKey.from_seed(key_id, bytes(32))
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey.from_seed("ed25519:1", bytes(31))
    assert "seed" not in repr(KEY) and "_key" not in repr(KEY)


def member(version: RoomVersion, **content: Any) -> Event:
    pdu = a_pdu(version, type="m.room.member", state_key="@bob:target", content=content)
    return Event.from_pdu(pdu, version)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_required_domains(version: RoomVersion) -> None:
    number = int(version.identifier)
    own_id = {"event_id": "$e:maker"} if number <= 2 else {}
    maker = {"maker"} if number <= 2 else set()
    assert required_signing_domains(Event.from_pdu(a_pdu(version, **own_id), version)) == {"domain"} | maker
    signer = {"domain"} if number <= 2 else set()
    assert required_signing_domains(member(version, membership="invite", third_party_invite={})) == signer
    assert required_signing_domains(member(version, membership="join", third_party_invite={})) == {"domain"}
    restricted = member(version, membership="join", join_authorised_via_users_server="@carol:host")
    assert required_signing_domains(restricted) == {"domain"} | ({"host"} if number >= 8 else set())


@pytest.mark.parametrize("authoriser", [None, 1, "", "carol", "@carol", "@carol:"])
def test_authorising_users_must_be_user_ids(authoriser: Any) -> None:
    event = member(ROOM_VERSIONS["9"], membership="join", join_authorised_via_users_server=authoriser)
    with pytest.raises(IdentifierError):
        required_signing_domains(event)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_event_signatures(version: RoomVersion) -> None:
    pdu = sign_pdu(a_pdu(version, signatures={}), version, "domain", KEY)
    keys = {"domain": {"ed25519:k1": KEY.verify_key}}
    check_event_signatures(Event.from_pdu(pdu, version), keys)
    redactable = pdu | {"content": {}, "unsigned": {"age": 1}}
    check_event_signatures(Event.from_pdu(redactable, version), keys)
    with pytest.raises(SignatureError):
        check_event_signatures(Event.from_pdu(pdu | {"depth": 8}, version), keys)
    with pytest.raises(SignatureError):
        check_event_signatures(Event.from_pdu(pdu, version), {"other": keys["domain"]})


def test_a_restricted_join_needs_both_signatures() -> None:
    version = ROOM_VERSIONS["10"]
    content = {"membership": "join", "join_authorised_via_users_server": "@carol:host"}
    pdu = a_pdu(version, type="m.room.member", state_key="@alice:domain", content=content, signatures={})
    once = sign_pdu(pdu, version, "domain", KEY)
    twice = sign_pdu(once, version, "host", OTHER_KEY)
    keys = {"domain": {"ed25519:k1": KEY.verify_key}, "host": {"ed25519:k2": OTHER_KEY.verify_key}}
    check_event_signatures(Event.from_pdu(twice, version), keys)
    assert Event.from_pdu(once, version) == Event.from_pdu(twice, version)
    with pytest.raises(SignatureError, match="host"):
        check_event_signatures(Event.from_pdu(once, version), keys)
