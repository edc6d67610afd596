# SPDX-License-Identifier: Apache-2.0
"""Content hashes, reference hashes and event ids."""

from base64 import b64encode, urlsafe_b64encode
from hashlib import sha256
from typing import Any

import pytest
from canonicaljson import encode_canonical_json

from homeserver.protocol.hashes import (
    content_hash,
    content_hash_matches,
    event_id_from_reference_hash,
    event_id_of,
    reference_hash,
)
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.protocol.unpadded_base64 import decode_base64, encode_base64, encode_url_safe_base64
from tests.protocol.pdus import ALL_VERSIONS, a_create_pdu, a_pdu

#: The two events of appendices, "Event Signing", with their content hashes.
VECTORS: list[tuple[dict[str, Any], str]] = [
    (
        {
            "room_id": "!x:domain",
            "sender": "@a:domain",
            "origin": "domain",
            "origin_server_ts": 1000000,
            "signatures": {},
            "hashes": {},
            "type": "X",
            "content": {},
            "prev_events": [],
            "auth_events": [],
            "depth": 3,
            "unsigned": {"age_ts": 1000000},
        },
        "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
    ),
    (
        {
            "content": {"body": "Here is the message content"},
            "event_id": "$0:domain",
            "origin": "domain",
            "origin_server_ts": 1000000,
            "type": "m.room.message",
            "room_id": "!r:domain",
            "sender": "@u:domain",
            "signatures": {},
            "unsigned": {"age_ts": 1000000},
        },
        "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
    ),
]


@pytest.mark.parametrize(("pdu", "expected"), VECTORS)
def test_content_hash_vectors(pdu: dict[str, Any], expected: str) -> None:
    version = ROOM_VERSIONS["1"]
    assert encode_base64(content_hash(pdu, version)) == expected
    assert content_hash_matches(pdu | {"hashes": {"sha256": expected}}, version)
    assert content_hash_matches(pdu | {"hashes": {"sha256": expected + "="}}, version)


@pytest.mark.parametrize("claimed", ["", "!", "AAAA", "é", "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncoS"])
def test_wrong_content_hashes(claimed: str) -> None:
    assert not content_hash_matches(VECTORS[0][0] | {"hashes": {"sha256": claimed}}, ROOM_VERSIONS["1"])


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_reference_hash_covers_the_redacted_event(version: RoomVersion) -> None:
    pdu = a_pdu(version)
    essential = {key: value for key, value in pdu.items() if key != "signatures"} | {"content": {}}
    expected = sha256(encode_canonical_json(essential)).digest()
    assert reference_hash(pdu, version) == expected
    assert reference_hash(pdu | {"content": {"body": "other"}, "unsigned": {"a": 1}}, version) == expected
    assert reference_hash(pdu | {"depth": 8}, version) != expected


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_event_ids(version: RoomVersion) -> None:
    pdu = a_create_pdu(version)
    digest = reference_hash(pdu, version)
    expected = {
        1: "$event:domain",
        2: "$event:domain",
        3: "$" + b64encode(digest).decode().rstrip("="),
    }.get(int(version.identifier), "$" + urlsafe_b64encode(digest).decode().rstrip("="))
    assert event_id_of(pdu, version) == expected


def test_alphabets_of_event_ids() -> None:
    digest = b"\xff\xef" * 16
    assert event_id_from_reference_hash(digest, ROOM_VERSIONS["3"])[:9] == "$/+//7//v"
    assert event_id_from_reference_hash(digest, ROOM_VERSIONS["4"])[:9] == "$_-__7__v"
    with pytest.raises(ValueError, match="not hashes"):
        event_id_from_reference_hash(digest, ROOM_VERSIONS["2"])


def test_base64_examples() -> None:
    encoded = ["", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"]
    for length, text in enumerate(encoded):
        data = b"foobar"[:length]
        assert encode_base64(data) == encode_url_safe_base64(data) == text
        assert decode_base64(text) == decode_base64(text + "=" * (-length % 3)) == data
    for bad in ("A", "Zm9v Yg", "Zm9v\n", "_-__", "é"):
        with pytest.raises(ValueError):
            decode_base64(bad)
