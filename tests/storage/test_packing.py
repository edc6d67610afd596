# SPDX-License-Identifier: Apache-2.0
"""Events are stored without what every event has, and come out byte for byte as they went in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from homeserver.protocol.canonical_json import encode_canonical
from storage.database import Database
from storage.packing import COMMON, MARK, packed, pdu_of

ORDINARY: dict[str, Any] = {
    "auth_events": ["$" + "a" * 43, "$" + "b" * 43],
    "content": {"body": "Good morning", "msgtype": "m.text"},
    "depth": 12,
    "hashes": {"sha256": "4gsalaAWK81nhQY9dR5LYGiypjCvid+G70EWFMVXAcI"},
    "origin_server_ts": 1795278886337,
    "prev_events": ["$" + "c" * 43],
    "room_id": "!p5lawNsnVNASnbtgpR1jeIywtuRTbnn0OOCqe1dXLFs",
    "sender": "@alice:one.example",
    "signatures": {"one.example": {"ed25519:a_IYlkhE": "ed7R76tW/d2+TQ8oz+hs" + "A" * 66}},
    "type": "m.room.message",
}

TRICKY: list[dict[str, Any]] = [
    {"content": {}},
    {"content": {"body": '"],"content":{ },"depth":1,"hashes":{', "more": {"depth": 7, "hashes": {}}}},
    {"content": {"body": "\x01\x02 %s %1$s \\ \" ' \u2028 😀"}},
    {"content": {"a": {"auth_events": ["$x"], "content": {"y": 1}}, "depth": 3}},
    {"state_key": ""},
    {"state_key": "@bob:two.example", "type": "m.room.member"},
    {"state_key": 'with "quotes" and \\ and \x01'},
    {"sender": "@alice:one.example:8448", "signatures": {"one.example:8448": {"ed25519:1": "AAAA"}}},
    {"sender": '@strange"name:one.example'},
    {"type": 'a "type"'},
    {"signatures": {"one.example": {"ed25519:1": "AAAA"}, "two.example": {"ed25519:1": "AAAA"}}},
    {"signatures": {"two.example": {"ed25519:1": "AAAA"}}},
    {"signatures": {}},
    {"auth_events": [], "prev_events": []},
    {"auth_events": [["$x:one.example", {"sha256": "AAAA"}]]},
    {"prev_events": ["$" + "c" * 43, "$" + "d" * 43]},
    {"prev_events": ["$odd]id:one.example"]},
    {"redacts": "$" + "e" * 43, "type": "m.room.redaction"},
    {"unsigned": {"age": 5}},
    {"hashes": {"sha256": "AAAA", "other": "x"}},
    {"depth": 2**53 - 1},
    {"origin_server_ts": -5},
    {"origin": "one.example"},
    {"room_id": "!another:one.example"},
    {"content": {"body": "a", "msgtype": "m.text", "more": {"body": "b", "msgtype": "m.text"}}},
    {"content": {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AAAA", "session_id": "b"}},
    {"content": {"displayname": "Bob", "membership": "join"}, "type": "m.room.member", "state_key": "@b:c.d"},
]


_ROOM = """INSERT INTO rooms (room, room_id, version, head, depth, extremities, next_ordinal, snapshot, next_snapshot,
    snapshot_weight, position) OVERRIDING SYSTEM VALUE VALUES (1, %s, '11', 1, 1, '{}', 1, 0, 1, 0, 1)"""


def stored(event: dict[str, Any]) -> tuple[str, int, str, str, str]:
    """(as it is, and what its row has)."""
    pdu = encode_canonical(event).decode()
    columns = event["origin_server_ts"], event["sender"], event["type"]
    room_id = ORDINARY["room_id"]
    return (
        pdu,
        *columns,
        packed(pdu, room_id=room_id, origin_server_ts=columns[0], sender=columns[1], event_type=columns[2]),
    )


async def unpacked(database: Database, rows: list[tuple[str, int, str, str, str]]) -> list[str]:
    """What the database gives out for them."""
    await database.execute("test", _ROOM, (ORDINARY["room_id"],))
    _, stamps, senders, types, texts = (list(column) for column in zip(*rows, strict=True))
    found = await database.fetch(
        "test",
        f"SELECT {pdu_of('e')} FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]) WITH ORDINALITY"
        " AS w(origin_server_ts, sender, type, pdu, nth) CROSS JOIN LATERAL (SELECT 1::bigint AS room, w.*) AS e"
        " ORDER BY w.nth",
        (stamps, senders, types, texts),
    )
    return [row[0] for row in found]


async def test_events_come_out_as_they_went_in(database: Database) -> None:
    rows = [stored({**ORDINARY, **changes}) for changes in TRICKY]
    assert await unpacked(database, rows) == [row[0] for row in rows]


@pytest.mark.parametrize("changes", [{}, *TRICKY[:3], *TRICKY[4:6], TRICKY[7], TRICKY[15]])
def test_ordinary_events_are_packed(changes: dict[str, Any]) -> None:
    pdu, *_, text = stored({**ORDINARY, **changes})
    assert text.startswith(MARK)
    assert len(text) < len(pdu) - 200


def test_what_columns_do_not_have_is_kept() -> None:
    pdu = encode_canonical(ORDINARY).decode()
    columns: dict[str, Any] = {
        "room_id": ORDINARY["room_id"],
        "origin_server_ts": 1795278886337,
        "sender": "@alice:one.example",
        "event_type": "m.room.message",
    }
    assert packed(pdu, **columns) != pdu
    for other in (
        {"room_id": "!x"},
        {"origin_server_ts": 5},
        {"sender": "@bob:one.example"},
        {"event_type": "m.sticker"},
    ):
        assert packed(pdu, **{**columns, **other}) == pdu


_TEXTS = some.text('ab"\\\x01\x02\x04{}[]:,$é', max_size=12)
_JSON = some.recursive(
    some.integers(-5, 5) | _TEXTS | some.booleans(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    some.dictionaries(some.sampled_from([*ORDINARY, "state_key", "unsigned", "content"]), _JSON, max_size=4)
)
def test_packing_takes_anything(changes: dict[str, Any]) -> None:
    """Nothing but a text of the right shape is ever taken apart; the pieces and the columns make it again."""
    event = {**ORDINARY, **changes}
    pdu = encode_canonical(event).decode()
    room_id = ORDINARY["room_id"]
    text = packed(
        pdu,
        room_id=room_id,
        origin_server_ts=1795278886337,
        sender="@alice:one.example",
        event_type="m.room.message",
    )
    if text.startswith(MARK):
        auth, content, depth, sha256, prev, key, signature, state_key = text[1:].split(MARK)
        for common, code in COMMON:
            content = content.replace(code, common)
        assert pdu == (
            f'{{"auth_events":["${auth}"],"content":{{{content}}},"depth":{depth},"hashes":{{"sha256":"{sha256}"}},'
            f'"origin_server_ts":1795278886337,"prev_events":["${prev}"],"room_id":"{room_id}",'
            f'"sender":"@alice:one.example","signatures":{{"one.example":{{"ed25519:{key}":"{signature}"}}}}{state_key},'
            '"type":"m.room.message"}'
        )
    else:
        assert text == pdu
