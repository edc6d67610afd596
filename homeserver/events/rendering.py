# SPDX-License-Identifier: Apache-2.0
"""The one door by which events leave for clients: bytes of an event for one reader.

Owns `unsigned` and the forms a filter may ask for. What is alike for all readers (the body, `replaces_state`,
`prev_content`, `redacted_because`) is made once per event and shared; the rest is a few dozen bytes per reader.
Does not own who may see an event, nor what is aggregated under it, which is handed in. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct

from homeserver.events.client_format import client_event_body, room_part
from homeserver.events.room_event import RoomEvent
from homeserver.needs import Protocol
from homeserver.protocol.events import Event
from homeserver.protocol.filters import pick_fields
from storage.events import StoredEvent

DELAYED = "org.matrix.msc4140.delay_id"
"""Stands for the device with events that the server sent later for their sender; their transaction id is the delay id,
of which every client of the sender is told (MSC4140)."""


class Reader(Struct, frozen=True):
    """For whom and when events are rendered."""

    user_id: str
    device_id: str | None
    now: int
    """Milliseconds, for `age`."""
    fields: Sequence[tuple[str, ...]] | None = None
    """A filter's `event_fields`, as paths."""
    federation: bool = False
    """A filter's `event_format`: the PDU, with the keys that clients cannot do without."""

    @property
    def reshapes(self) -> bool:
        """Whether the usual form is not wanted."""
        return self.federation or self.fields is not None


class Past(Protocol):
    """The reader's past in the room; `rooms.access.Sight` is one."""

    def membership_at(self, position: int) -> str | None:
        """Their membership once the event at a position had happened."""

    def may_see_replaced(self, entry: RoomEvent) -> bool:
        """Whether they may see the state event that this one replaced."""


def render(
    entry: RoomEvent,
    reader: Reader,
    past: Past | None,
    *,
    room_id: bool = True,
    relations: bytes | None = None,
) -> bytes:
    """The event as the reader gets it (client-server API, "Room event format"), a JSON object.

    `past` None leaves out what depends on it (`membership`, `prev_content`), as the specification allows; `room_id`
    False gives the form without room that `/sync` wants; `relations` is the object under `unsigned.m.relations`.
    """
    stored = entry.stored
    always, prev_content = _shared(entry)
    parts = [b"%d" % (reader.now - stored.origin_server_ts), always]
    if past is not None:
        membership = past.membership_at(stored.position)
        parts.append(_MEMBERSHIPS[membership])
        if prev_content and past.may_see_replaced(entry):
            parts.append(prev_content)
    if stored.transaction_id is not None:
        parts.append(_told_sender(stored, reader))
    if relations is not None:
        parts.append(b',"m.relations":' + relations)
    parts.append(b"}}")
    if reader.reshapes:
        return _reshaped(entry, reader, b"".join((b',"unsigned":{"age":', *parts)), room_id)
    if room_id:
        return b"".join((entry.opening, *parts))
    return b"".join((entry.client_body, b',"unsigned":{"age":', *parts))


def render_all(
    entries: Iterable[RoomEvent], reader: Reader, past: Past | None, *, room_id: bool = True
) -> list[bytes]:
    """Each of the events, nothing aggregated."""
    return [render(entry, reader, past, room_id=room_id) for entry in entries]


def render_page(
    entries: Iterable[RoomEvent],
    reader: Reader,
    past: Past,
    membership: str | None,
    relations: Mapping[str, bytes],
) -> list[bytes]:
    """Events of history, each as `render` gives it.

    `membership` is what the reader was throughout, None if that differs; `relations` by event id.
    """
    if membership is None or reader.reshapes:
        return [
            render(entry, reader, past, relations=relations.get(entry.stored.event_id)) for entry in entries
        ]
    user_id, now = reader.user_id, reader.now
    end = _MEMBERSHIPS[membership] + b"}}"
    rendered: list[bytes] = []
    for entry in entries:
        stored = entry.stored
        if stored.replaces is not None or stored.redacted_by is not None or stored.event_id in relations:
            rendered.append(render(entry, reader, past, relations=relations.get(stored.event_id)))
            continue
        age = now - stored.origin_server_ts
        if stored.sender == user_id and stored.transaction_id is not None:
            told = _told_sender(stored, reader)
            rendered.append(b"%b%d%b%b}}" % (entry.opening, age, _MEMBERSHIPS[membership], told))
        else:
            rendered.append(b"%b%d%b" % (entry.opening, age, end))
    return rendered


def array(rendered: Iterable[bytes]) -> bytes:
    """A JSON array of values that are already encoded."""
    return b"[" + b",".join(rendered) + b"]"


_MEMBERSHIPS: dict[str | None, bytes] = {
    name: b',"membership":"%s"' % (name or "leave").encode()
    for name in (None, "join", "leave", "invite", "knock", "ban")
}
"""Who had no member event yet is told `leave`."""


def _is_own(stored: StoredEvent, reader: Reader) -> bool:
    """Whether the reader is the very client that sent the event."""
    return (
        stored.sender == reader.user_id
        and stored.device_id is not None
        and stored.device_id == reader.device_id
    )


def _is_delayed(stored: StoredEvent, reader: Reader) -> bool:
    """Whether the reader's user had the event sent later."""
    return stored.sender == reader.user_id and stored.device_id == DELAYED


def _told_sender(stored: StoredEvent, reader: Reader) -> bytes:
    """What an event with a transaction id tells of that: to its sender only."""
    if _is_own(stored, reader):
        return b',"transaction_id":' + orjson.dumps(stored.transaction_id)
    if _is_delayed(stored, reader):
        return b',"org.matrix.msc4140.delay_id":' + orjson.dumps(stored.transaction_id)
    return b""


def tells_own(stored: StoredEvent, reader: Reader) -> bool:
    """Whether the event is shown to the reader with something that is told to nobody else."""
    return stored.transaction_id is not None and (_is_own(stored, reader) or _is_delayed(stored, reader))


def _shared(entry: RoomEvent) -> tuple[bytes, bytes]:
    """Members of `unsigned` that are alike for all readers, each with its leading comma: those that everybody gets,
    and `prev_content`."""
    stored = entry.stored
    if stored.replaces is None and stored.redacted_by is None:
        return _NOTHING
    made = entry.aside
    if isinstance(made, tuple):
        return made
    always = prev_content = b""
    if stored.replaced_event_id is not None:
        always = b',"replaces_state":' + orjson.dumps(stored.replaced_event_id)
    if stored.replaced_pdu is not None:
        prev_content = b',"prev_content":' + orjson.dumps(orjson.loads(stored.replaced_pdu)["content"])
    if stored.redacted_by is not None and stored.redaction_pdu is not None:
        because = Event.from_pdu(orjson.loads(stored.redaction_pdu), entry.version, stored.redacted_by)
        always += b"".join(
            (b',"redacted_because":', client_event_body(because), room_part(entry.room_id), b"}")
        )
    entry.aside = (always, prev_content)
    return always, prev_content


_NOTHING = (b"", b"")


def _reshaped(entry: RoomEvent, reader: Reader, unsigned: bytes, room_id: bool) -> bytes:
    """In the federation format and with only the fields wanted; a rare wish, and so it costs what it costs."""
    event: dict[str, Any]
    if reader.federation:
        event = {**entry.event.pdu, "event_id": entry.stored.event_id}
        event["unsigned"] = orjson.loads(b"{" + unsigned[1:])["unsigned"]
    else:
        event = orjson.loads(entry.client_body + (room_part(entry.room_id) if room_id else b"") + unsigned)
    if reader.fields is not None:
        event = pick_fields(event, reader.fields)
    return orjson.dumps(event)
