# SPDX-License-Identifier: Apache-2.0
"""Events as clients get them: the body, `unsigned` for each reader, and the forms a filter may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from homeserver.events import RoomEvent
from homeserver.events.rendering import Reader, array, render, render_all
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.filters import property_path
from homeserver.protocol.room_versions import room_version
from storage.events import StoredEvent

ROOM = "!room:localhost"
ALICE = Reader("@alice:localhost", "PHONE", now=5_000)
VERSION = room_version("11")


@dataclass(frozen=True, slots=True)
class Past:
    """A reader's past, made up."""

    membership: str | None = "join"
    sees_replaced: bool = True

    def membership_at(self, position: int) -> str | None:
        return self.membership

    def may_see_replaced(self, entry: RoomEvent) -> bool:
        return self.sees_replaced


def pdu(content: dict[str, Any], **more: Any) -> str:
    """A PDU's text."""
    whole = {
        "auth_events": [],
        "content": content,
        "depth": 7,
        "hashes": {"sha256": "x"},
        "origin_server_ts": 1_000,
        "prev_events": [],
        "room_id": ROOM,
        "sender": "@alice:localhost",
        "signatures": {},
        "type": "m.room.message",
        **more,
    }
    return encode_canonical(whole, strict=True).decode()


def event(content: dict[str, Any], *, row: dict[str, Any] | None = None, **more: Any) -> RoomEvent:
    """An event in memory; `row` sets columns."""
    columns: dict[str, Any] = dict.fromkeys(StoredEvent._fields)
    columns.update(
        room=1,
        ordinal=9,
        position=90,
        depth=7,
        origin_server_ts=1_000,
        visibility=1,
        flags=0,
        event_id="$event",
        type=more.get("type", "m.room.message"),
        state_key=more.get("state_key"),
        sender=more.get("sender", "@alice:localhost"),
        pdu=pdu(content, **more),
    )
    columns.update(row or {})
    return RoomEvent(StoredEvent(**columns), ROOM, VERSION)


def shown(
    entry: RoomEvent, reader: Reader = ALICE, past: Past | None = Past(), **options: Any
) -> dict[str, Any]:
    """The event rendered and read again."""
    decoded: dict[str, Any] = orjson.loads(render(entry, reader, past, **options))
    return decoded


def test_a_message() -> None:
    """Exactly the keys of the specification's ClientEvent, nothing of the PDU's rest."""
    assert shown(event({"body": "hi"})) == {
        "content": {"body": "hi"},
        "event_id": "$event",
        "origin_server_ts": 1_000,
        "room_id": ROOM,
        "sender": "@alice:localhost",
        "type": "m.room.message",
        "unsigned": {"age": 4_000, "membership": "join"},
    }


def test_without_room() -> None:
    """`/sync` has no room id, also where the content has one of its own that is the same."""
    entry = event({"room_id": ROOM, "body": "hi"})
    rendered = shown(entry, room_id=False)
    assert "room_id" not in rendered
    assert rendered["content"] == {"room_id": ROOM, "body": "hi"}


@pytest.mark.parametrize(
    ("membership", "told"),
    [("join", "join"), ("invite", "invite"), ("ban", "ban"), ("knock", "knock"), (None, "leave")],
)
def test_the_readers_membership_then(membership: str | None, told: str) -> None:
    """Who had no member event yet is told `leave`; a past that is not known is not told (v1.11)."""
    assert shown(event({}), past=Past(membership))["unsigned"]["membership"] == told
    assert shown(event({}), past=None)["unsigned"] == {"age": 4_000}


@pytest.mark.parametrize(
    ("reader", "echoed"),
    [
        (ALICE, True),
        (replace(ALICE, device_id="LAPTOP"), False),
        (replace(ALICE, device_id=None), False),
        (replace(ALICE, user_id="@bob:localhost"), False),
    ],
)
def test_the_transaction_id_goes_to_the_sending_device_alone(reader: Reader, echoed: bool) -> None:
    """Client-server API, "Transaction identifiers"."""
    entry = event({}, row={"transaction_id": 'a"b', "device_id": "PHONE"})
    unsigned = shown(entry, reader)["unsigned"]
    assert unsigned.get("transaction_id") == ('a"b' if echoed else None)


REPLACING = {
    "replaces": 3,
    "replaced_event_id": "$before",
    "replaced_position": 30,
    "replaced_visibility": 3,
    "replaced_pdu": pdu({"topic": "old"}, type="m.room.topic", state_key=""),
}


@pytest.mark.parametrize("past", [Past(), Past(sees_replaced=False), None])
def test_what_a_state_event_replaced(past: Past | None) -> None:
    """Its id is told always, its content to whom may see it."""
    entry = event({"topic": "new"}, row=REPLACING, type="m.room.topic", state_key="")
    rendered = shown(entry, past=past)
    assert rendered["state_key"] == ""
    assert rendered["unsigned"]["replaces_state"] == "$before"
    sees = past is not None and past.sees_replaced
    assert rendered["unsigned"].get("prev_content") == ({"topic": "old"} if sees else None)


def test_a_redacted_event_tells_why() -> None:
    """With the redaction in client format; `redacts` stands in its content and at its top level."""
    redaction = pdu({"redacts": "$event", "reason": "spam"}, type="m.room.redaction", sender="@mod:localhost")
    unsigned = shown(event({}, row={"redacted_by": "$redaction", "redaction_pdu": redaction}))["unsigned"]
    because = unsigned["redacted_because"]
    assert because["event_id"] == "$redaction"
    assert because["sender"] == "@mod:localhost"
    assert because["redacts"] == because["content"]["redacts"] == "$event"
    assert because["room_id"] == ROOM


def test_what_was_made_of_an_event_is_dropped_when_it_changes() -> None:
    """A redaction, of it or of what it carries along, shows at once."""
    entry = event({"topic": "new"}, row=REPLACING, type="m.room.topic", state_key="")
    assert shown(entry)["unsigned"]["prev_content"] == {"topic": "old"}
    entry.replaced_was_redacted(pdu({}, type="m.room.topic", state_key=""))
    assert shown(entry)["unsigned"]["prev_content"] == {}
    redaction = event({"redacts": "$event", "reason": "bad"}, type="m.room.redaction")
    entry.redact(pdu({}, type="m.room.topic", state_key=""), redaction.stored)
    assert shown(entry)["content"] == {}
    assert shown(entry)["unsigned"]["redacted_because"]["content"]["reason"] == "bad"
    entry.redaction_was_redacted(pdu({"redacts": "$event"}, type="m.room.redaction"))
    assert "reason" not in shown(entry)["unsigned"]["redacted_because"]["content"]


def test_event_fields() -> None:
    """Only what the paths name, `unsigned` among it."""
    fields = [
        property_path(path) for path in ("type", "content.body", r"content.m\.relates_to", "unsigned.age")
    ]
    rendered = shown(event({"body": "hi", "format": "x", "m.relates_to": {}}), replace(ALICE, fields=fields))
    assert rendered == {
        "type": "m.room.message",
        "content": {"body": "hi", "m.relates_to": {}},
        "unsigned": {"age": 4_000},
    }


def test_federation_format() -> None:
    """The PDU, with its id and `unsigned`."""
    rendered = shown(event({"body": "hi"}), replace(ALICE, federation=True))
    assert rendered["depth"] == 7
    assert rendered["auth_events"] == []
    assert rendered["event_id"] == "$event"
    assert rendered["unsigned"] == {"age": 4_000, "membership": "join"}


def test_relations_and_lists() -> None:
    """What is aggregated comes encoded; lists are spliced."""
    rendered = shown(event({}), relations=b'{"m.thread":{"count":1}}')
    assert rendered["unsigned"]["m.relations"] == {"m.thread": {"count": 1}}
    entries = [event({"body": "1"}), event({"body": "2"})]
    decoded = orjson.loads(array(render_all(entries, ALICE, Past())))
    assert [each["content"]["body"] for each in decoded] == ["1", "2"]
    assert array([]) == b"[]"
