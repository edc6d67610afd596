# SPDX-License-Identifier: Apache-2.0
"""What `PduReader` lets through: nothing that is forged, malformed, or could not be stored or sent on."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from federation.inbound.reading import PduReader, Read
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.room_versions import ROOM_VERSIONS, room_version
from homeserver.protocol.unpadded_base64 import encode_base64
from tests.federation.inbound.forging import KnownKeys, resigned
from tests.federation.servers import RemoteServer

HYDRA, EVIL = RemoteServer("hydra.test"), RemoteServer("evil.test")
ROOM = "!room:hydra.test"


async def no_pause() -> None:
    """Nobody else needs the reactor."""


def reader(verifier: KnownKeys | None = None) -> PduReader:
    return PduReader(verifier or KnownKeys(HYDRA, EVIL), breathe=no_pause)


async def read(pdu: Any, version: str = "11", room_id: str | None = ROOM) -> Read:
    (found,) = await reader().read(room_version(version), [pdu], room_id=room_id)
    return found


def message(version: str = "11", **fields: Any) -> dict[str, Any]:
    room_id = ROOM if version != "12" else "!" + "a" * 43
    return dict(HYDRA.pdu(version=version, room_id=fields.pop("room_id", room_id), **fields).event.pdu)


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_a_good_event_is_read_as_it_is(version: str) -> None:
    """Its id is what its sender means by it, its JSON the canonical form of what was sent."""
    built = HYDRA.pdu(version=version, room_id=ROOM if version != "12" else "!" + "a" * 43)
    found = await read(built.event.pdu, version, None)
    assert found.refusal is None
    assert found.incoming is not None
    assert found.event_id == found.incoming.event.event_id == built.event.event_id
    assert found.incoming.json.encode() == built.json_bytes


async def test_unsigned_is_stripped() -> None:
    """What nobody signed does not come in, however it is called."""
    found = await read({**message(), "unsigned": {"age": 1, "redacted_because": {}, "x": 1.5}})
    assert found.incoming is not None
    assert "unsigned" not in found.incoming.event.pdu
    assert "unsigned" not in json.loads(found.incoming.json)


async def test_advisory_01_signed_by_another_server_than_the_senders() -> None:
    """An event in somebody's name counts only with their server's signature, whatever it says of its origin."""
    sender = HYDRA.user("admin")
    forged = EVIL.pdu(version="11", room_id=ROOM, sender=sender).event.pdu
    found = await read(forged)
    assert found.incoming is None
    assert found.event_id is not None
    forged = resigned({**forged, "origin": "hydra.test"}, "11", EVIL)
    assert (await read(forged)).incoming is None


async def test_a_wrong_hash_leaves_the_redacted_form() -> None:
    """Content that was changed on the way is taken out; the event, which is signed, stays."""
    pdu = message()
    found = await read({**pdu, "content": {"body": "changed", "msgtype": "m.text"}})
    assert found.incoming is not None
    assert found.incoming.event.content == {}
    assert found.event_id == (await read(pdu)).event_id
    assert orjson.loads(found.incoming.json)["content"] == {}


async def test_a_wrong_signature_is_refused() -> None:
    """Not one bit of what is signed may change."""
    pdu = message()
    for change in ({"depth": 7}, {"sender": "@bob:hydra.test"}, {"origin_server_ts": 5}):
        assert (await read({**pdu, **change})).incoming is None
    signature = pdu["signatures"]["hydra.test"]["ed25519:test"]
    swapped = ("B" if signature[0] == "A" else "A") + signature[1:]
    found = await read({**pdu, "signatures": {"hydra.test": {"ed25519:test": swapped}}})
    assert found.incoming is None
    assert (await read({**pdu, "signatures": {}})).incoming is None


@pytest.mark.parametrize("version", ["8", "10", "11", "12"])
async def test_a_wrong_hash_buys_no_exemption_from_signatures(version: str) -> None:
    """Third-party invites need no signature of their sender, and a wrong hash may take the third party away again:
    what is then left is an ordinary invite, forged.
    """
    room_id = ROOM if version != "12" else "!" + "a" * 43
    content: dict[str, Any] = {"membership": "invite", "third_party_invite": {"display_name": "x"}}
    forged = EVIL.pdu(
        version=version,
        room_id=room_id,
        event_type="m.room.member",
        sender=HYDRA.user("admin"),
        state_key=EVIL.user("mallory"),
        content=content,
    ).event.pdu
    found = await read({**forged, "hashes": {"sha256": encode_base64(bytes(32))}}, version, None)
    assert found.incoming is None or "third_party_invite" in found.incoming.event.content


async def test_an_event_of_another_room_is_refused() -> None:
    """What was asked for of one room brings nothing of another."""
    assert (await read(message(), room_id="!other:hydra.test")).incoming is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("type", "m.\0"), ("state_key", "\0"), ("sender", "@a\0:hydra.test")],
)
async def test_nul_where_the_database_has_columns_is_refused(field: str, value: str) -> None:
    """Postgres has no such text, and a refusal here harms one event only."""
    pdu = resigned({**message(event_type="m.x", state_key="a", content={}), field: value}, "11", HYDRA)
    found = await read(pdu)
    assert found.incoming is None


async def test_nul_in_an_id_that_an_event_names_is_refused() -> None:
    pdu = resigned({**message(), "prev_events": ["$a\0b"]}, "11", HYDRA)
    assert (await read(pdu)).incoming is None


async def test_nul_in_content_is_taken() -> None:
    """It is text like any other there."""
    found = await read(message(content={"body": "a\0b"}))
    assert found.incoming is not None
    assert "\0" not in found.incoming.json


@pytest.mark.parametrize("value", [1.5, 2**53, -(2**53), 1e300, float("nan"), float("inf")])
@pytest.mark.parametrize("version", ["6", "10", "11", "12"])
async def test_advisory_05_numbers_without_canonical_form(version: str, value: float) -> None:
    """Floats, NaN and wide integers are refused where canonical JSON is strict, wherever they stand."""
    for place in ({"content": {"a": [value]}}, {"x": value}):
        assert (await read({**message(version), **place}, version, None)).incoming is None


@pytest.mark.parametrize("value", [1.5, 2**53, -(2**63), 2**63 - 1, 0.1, 1e300])
@pytest.mark.parametrize("version", ["1", "3", "5"])
async def test_numbers_that_old_rooms_allow(version: str, value: float) -> None:
    """They come through exactly, to be hashed and sent on as they came."""
    pdu = resigned({**message(version), "content": {"a": value}}, version, HYDRA)
    found = await read(pdu, version)
    assert found.refusal is None
    assert found.incoming is not None
    again = orjson.loads(found.incoming.json)
    assert again["content"]["a"] == value
    assert encode_canonical(again, strict=False).decode() == found.incoming.json


@pytest.mark.parametrize("value", [2**63, 2**64, 10**40, -(2**63) - 1, float("nan"), float("-inf")])
@pytest.mark.parametrize("version", ["1", "5"])
async def test_numbers_that_nothing_here_can_hold_are_refused(version: str, value: float) -> None:
    """Even in old rooms: stored, they would come back as others."""
    for place in ({"content": {"a": value}}, {"content": {"a": [{"b": value}]}}, {"x": value}):
        assert (await read({**message(version), **place}, version)).incoming is None


@pytest.mark.parametrize("depth", [-1, 2**53, 2**63, 2**64, 10**30, 1.0, "1", None, True])
async def test_advisory_26_depth_out_of_range(depth: object) -> None:
    """A depth that is no canonical integer stops one event, and nothing else."""
    pdus = [message(), {**message(), "depth": depth}, message()]
    reads = await reader().read(room_version("11"), pdus, room_id=ROOM)
    assert [each.incoming is not None for each in reads] == [True, False, True]


@pytest.mark.parametrize(("version", "greatest"), [("1", 2**63 - 1), ("5", 2**63 - 1), ("6", 2**53 - 1)])
async def test_the_greatest_depth_is_taken(version: str, greatest: int) -> None:
    """It is an integer like any other up to there."""
    assert (await read(message(version, depth=greatest), version)).incoming is not None
    refused = resigned({**message(version), "depth": 0}, version, HYDRA) | {"depth": greatest + 1}
    assert (await read(refused, version)).incoming is None


def padded(size: int) -> dict[str, Any]:
    """A message of just so many bytes as canonical JSON."""
    empty = len(HYDRA.pdu(version="11", room_id=ROOM, content={"body": ""}, origin_server_ts=1).json_bytes)
    pdu = resigned({**message(origin_server_ts=1), "content": {"body": "x" * (size - empty)}}, "11", HYDRA)
    assert len(encode_canonical(pdu)) == size
    return pdu


async def test_an_event_has_64_kib_and_not_a_byte_more() -> None:
    """Signatures and hashes counted, what nobody signed not."""
    assert (await read({**padded(65536), "unsigned": {"age": 100}})).incoming is not None
    assert (await read(padded(65537))).incoming is None


@pytest.mark.parametrize("field", ["type", "state_key"])
async def test_fields_have_255_bytes_and_not_one_more(field: str) -> None:
    """Bytes, not characters."""
    for text, good in (("a" * 255, True), ("a" * 256, False), ("ü" * 128, False)):
        pdu = resigned({**message(event_type="m.x", state_key="a", content={}), field: text}, "11", HYDRA)
        assert ((await read(pdu)).incoming is not None) is good


@pytest.mark.parametrize(
    "change",
    [
        {"prev_events": ["$a"] * 21},
        {"auth_events": ["$a"] * 11},
        {"prev_events": "$a"},
        {"auth_events": [["$a", {}]]},
        {"content": []},
        {"sender": "alice"},
        {"signatures": []},
        {"signatures": {"hydra.test": []}},
        {"hashes": {}},
        {"hashes": {"sha256": "no base64!"}},
        {"state_key": 1},
        {"room_id": None},
    ],
)
async def test_what_is_no_event_is_refused(change: dict[str, Any]) -> None:
    """And never breaks what reads it."""
    assert (await read({**message(), **change})).incoming is None


@pytest.mark.parametrize("pdu", [None, [], 1, "event", {}, {"type": "m.x"}, {"content": 1, "type": []}])
async def test_what_is_nothing_at_all_has_no_id(pdu: object) -> None:
    """It is refused by itself."""
    found = await read(pdu)
    assert (found.event_id, found.incoming) == (None, None)


async def test_nesting_is_bounded() -> None:
    """Without a word of complaint by the interpreter."""
    value: Any = 1
    for _ in range(5000):
        value = [value]
    assert (await read({**message(), "content": {"a": value}})).incoming is None


async def test_signatures_are_checked_together() -> None:
    """One batch for all that got so far."""
    verifier = KnownKeys(HYDRA)
    pdus = [message(content={"body": str(number)}) for number in range(120)]
    reads = await reader(verifier).read(room_version("11"), [*pdus, {}], room_id=ROOM)
    assert verifier.batches == [120]
    assert sum(each.incoming is not None for each in reads) == 120


async def test_a_restricted_join_needs_the_authorising_servers_signature() -> None:
    """The joining server's alone does not do."""
    content = {"membership": "join", "join_authorised_via_users_server": "@admin:hydra.test"}
    join = EVIL.pdu(
        version="11",
        room_id=ROOM,
        event_type="m.room.member",
        sender=EVIL.user("mallory"),
        state_key=EVIL.user("mallory"),
        content=content,
    ).event.pdu
    assert (await read(join)).incoming is None
    assert (await read(HYDRA.sign_pdu(join, "11"))).incoming is not None
