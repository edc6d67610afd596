# SPDX-License-Identifier: Apache-2.0
"""An event in memory: the stored row and, made once when first asked for, the forms others need of it.

One object per event is shared by a room's state, its recent timeline and every response that shows it, so that an
event is parsed once and its bytes for clients are made once. Owns no decision about who may see it.
"""

from __future__ import annotations

import orjson
from pyroaring import BitMap

from homeserver.events.client_format import client_event_body, room_part
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion
from storage.events import StoredEvent


class RoomEvent:
    """A mutable cell only in that a redaction, when it comes, replaces what it holds."""

    __slots__ = ("_body", "_chain", "_event", "_opening", "aside", "room_id", "stored", "version", "weight")

    def __init__(
        self, stored: StoredEvent, room_id: str, version: RoomVersion, event: Event | None = None
    ) -> None:
        self.stored = stored
        self.room_id = room_id
        self.version = version
        self._event = event
        self._body: bytes | None = None
        self._opening: bytes | None = None
        self._chain: BitMap | None = None
        self.aside: object = None
        """Where `rendering` keeps what it made of the event besides its body."""
        self.weight = 1500 + 4 * len(stored.pdu)
        """About how many bytes of memory it takes. Fixed, so that what counted it in counts the same out."""

    @property
    def event(self) -> Event:
        """The event parsed."""
        if self._event is None:
            self._event = self._parsed()
        return self._event

    def _parsed(self) -> Event:
        return Event.from_pdu(orjson.loads(self.stored.pdu), self.version, self.stored.event_id)

    @property
    def client_body(self) -> bytes:
        """The client format without room, `unsigned` and closing brace (see `client_format`)."""
        if self._body is None:
            self._body = client_event_body(self.event)
        return self._body

    @property
    def opening(self) -> bytes:
        """The client format with room, up to the number that is its age.

        For what is read from history and kept: what it was made of is not.
        """
        if self._opening is None:
            body = self._body
            if body is None:
                body = client_event_body(self._parsed() if self._event is None else self._event)
            self._opening = b"".join((body, room_part(self.room_id), b',"unsigned":{"age":'))
        return self._opening

    @property
    def auth_chain(self) -> BitMap:
        """Ordinals of its auth chain; state events only."""
        if self._chain is None:
            raw = self.stored.auth_chain
            self._chain = BitMap() if raw is None else BitMap.deserialize(raw)
        return self._chain

    def place(self, position: int, replaced: int | None) -> None:
        """The commit gave it its stream position, and one to what it replaced if that is of the same commit."""
        stored = self.stored
        if replaced is None:
            replaced = stored.replaced_position
        self.stored = stored._replace(position=position, replaced_position=replaced)

    def sign(self, event: Event, pdu: str) -> None:
        """Hold the same event with a further signature. For one that nobody else has seen yet."""
        self.stored = self.stored._replace(pdu=pdu)
        self._event = event

    def redact(self, pdu: str, redaction: StoredEvent) -> None:
        """Hold the redacted form from now on."""
        self.stored = self.stored._replace(
            pdu=pdu, redacted_by=redaction.event_id, redaction_pdu=redaction.pdu
        )
        self._event = None
        self._body = None
        self._opening = None
        self.aside = None

    def replaced_was_redacted(self, pdu: str) -> None:
        """The event it replaced has only its redacted form from now on."""
        self.stored = self.stored._replace(replaced_pdu=pdu)
        self.aside = None

    def redaction_was_redacted(self, pdu: str) -> None:
        """The redaction that struck it has only its redacted form from now on."""
        self.stored = self.stored._replace(redaction_pdu=pdu)
        self.aside = None

    def __repr__(self) -> str:
        return f"<RoomEvent {self.stored.event_id} {self.stored.type!r} at {self.stored.position}>"
