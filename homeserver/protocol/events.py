# SPDX-License-Identifier: Apache-2.0
"""The event: one value for a PDU together with its id and room version.

Owns reading the fields of a PDU where its room version keeps them. Does not own whether the PDU is well
formed (``event_format``), its rendering for clients, nor anything the server learns about it (position,
rejection, …).
"""

from typing import Any

from msgspec import Struct

from homeserver.protocol.hashes import event_id_of
from homeserver.protocol.room_versions import RoomVersion


class Event(Struct, frozen=True, eq=False):
    """An event of a room. Equal if the ids are equal.

    ``pdu`` is the federation form as received or built; nobody may change it, nor anything inside it.
    """

    event_id: str
    room_version: RoomVersion
    pdu: dict[str, Any]
    room_id: str
    type: str
    #: None for a message event.
    state_key: str | None
    sender: str
    prev_event_ids: tuple[str, ...]
    auth_event_ids: tuple[str, ...]

    @classmethod
    def from_pdu(cls, pdu: dict[str, Any], room_version: RoomVersion, event_id: str | None = None) -> "Event":
        """The event of a PDU that has passed ``check_pdu_format``, now or before it was stored.

        ``event_id`` spares the hashing where the id is already known; it is trusted.
        """
        if event_id is None:
            event_id = event_id_of(pdu, room_version)
        prev_events, auth_events = pdu["prev_events"], pdu["auth_events"]
        if room_version.chooses_event_ids:
            prev_events = [reference[0] for reference in prev_events]
            auth_events = [reference[0] for reference in auth_events]
        derived = room_version.room_id_is_create_hash and is_create(pdu)
        return cls(
            event_id,
            room_version,
            pdu,
            "!" + event_id[1:] if derived else pdu["room_id"],
            pdu["type"],
            pdu.get("state_key"),
            pdu["sender"],
            tuple(prev_events),
            tuple(auth_events),
        )

    @property
    def content(self) -> dict[str, Any]:
        """The event's content, to be read only."""
        content: dict[str, Any] = self.pdu["content"]
        return content

    @property
    def depth(self) -> int:
        """One more than the greatest depth among the previous events, or the version's limit."""
        depth: int = self.pdu["depth"]
        return depth

    @property
    def origin_server_ts(self) -> int:
        """The origin's clock when it made the event, in milliseconds."""
        timestamp: int = self.pdu["origin_server_ts"]
        return timestamp

    @property
    def is_state(self) -> bool:
        """Whether the event is a state event."""
        return self.state_key is not None

    @property
    def state_tuple(self) -> tuple[str, str]:
        """``(type, state_key)``. Raises ValueError for a message event."""
        if self.state_key is None:
            raise ValueError(f"{self.event_id} is not a state event")
        return self.type, self.state_key

    @property
    def redacts(self) -> str | None:
        """The id of the event that an ``m.room.redaction`` names, read where its room version puts it."""
        if self.type != "m.room.redaction":
            return None
        holder = self.pdu["content"] if self.room_version.redacts_in_content else self.pdu
        target = holder.get("redacts")
        return target if isinstance(target, str) else None

    def __eq__(self, other: object) -> bool:
        return self.event_id == other.event_id if isinstance(other, Event) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __repr__(self) -> str:
        key = "" if self.state_key is None else f", {self.state_key!r}"
        return f"<Event {self.event_id} {self.type!r}{key} by {self.sender}>"


def is_create(pdu: dict[str, Any]) -> bool:
    """Whether the PDU is a room's ``m.room.create`` state event (whose state key is empty)."""
    return pdu["type"] == "m.room.create" and pdu.get("state_key") == ""
