# SPDX-License-Identifier: Apache-2.0
"""Rooms for tests of the protocol core: events without hashes or signatures, in any graph a test wants.

`Room` makes events whose ids are what the test says; the graph below it may be as wrong as the test needs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from homeserver.protocol.event_auth import auth_types_for
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import ROOM_VERSIONS

ALL_VERSIONS = tuple(ROOM_VERSIONS)
StateMap = dict[tuple[str, str], Event]

ALICE, BOB, CAROL, DAVE = (f"@{name}:{name}.example" for name in ("alice", "bob", "carol", "dave"))


def versions(first: int = 1, last: int = 12) -> list[str]:
    """The identifiers of the versions from `first` to `last`."""
    return [str(number) for number in range(first, last + 1)]


class Room:
    """A room created by Alice, growing event by event on its current state unless told otherwise."""

    def __init__(
        self, version: str, *, creator: str = ALICE, create: Mapping[str, Any] | None = None
    ) -> None:
        self.version = ROOM_VERSIONS[version]
        self.events: dict[str, Event] = {}
        self.state: StateMap = {}
        self.latest: tuple[str, ...] = ()
        self._clock = 0
        domain = creator.partition(":")[2]
        self.room_id = "!create" if self.version.room_id_is_create_hash else f"!room:{domain}"
        content: dict[str, Any] = {"room_version": version, **(create or {})}
        if self.version.create_has_creator:
            content.setdefault("creator", creator)
        self.create = self.send("m.room.create", creator, content, "", event_id=self.id("create"))

    def id(self, name: str) -> str:
        """The event id that stands for `name` in this room's version."""
        return f"${name}:alice.example" if self.version.chooses_event_ids else f"${name}"

    def event(
        self,
        event_type: str,
        sender: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        event_id: str | None = None,
        prev: Iterable[str] | None = None,
        auth: Iterable[str] | None = None,
        state: Mapping[tuple[str, str], Event] | None = None,
        ts: int | None = None,
        redacts: str | None = None,
        depth: int | None = None,
    ) -> Event:
        """An event that is not sent: cites what `state` (the current one by default) holds for it."""
        self._clock += 1
        event_id = event_id if event_id is not None else self.id(f"e{self._clock:06}")
        state = self.state if state is None else state
        if auth is None:
            keys = auth_types_for(self.version, event_type, sender, state_key, content)
            auth = [state[key].event_id for key in keys if key in state]
        pdu: dict[str, Any] = {
            "type": event_type,
            "sender": sender,
            "content": dict(content),
            "origin_server_ts": self._clock if ts is None else ts,
            "depth": self._clock if depth is None else depth,
            "room_id": self.room_id,
            "prev_events": self._references(self.latest if prev is None else prev),
            "auth_events": self._references(auth),
        }
        if state_key is not None:
            pdu["state_key"] = state_key
        if event_type == "m.room.create" and self.version.room_id_is_create_hash:
            del pdu["room_id"]
        if redacts is not None:
            if self.version.redacts_in_content:
                pdu["content"]["redacts"] = redacts
            else:
                pdu["redacts"] = redacts
        return Event.from_pdu(pdu, self.version, event_id)

    def send(
        self, event_type: str, sender: str, content: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> Event:
        """Make an event as `event` does and put it into the room without asking whether it is allowed."""
        return self.add(self.event(event_type, sender, content, *args, **kwargs))

    def add(self, event: Event) -> Event:
        """Put an event at the end of the room and, if it is one, into its state."""
        self.events[event.event_id] = event
        self.latest = (event.event_id,)
        if event.state_key is not None:
            self.state[event.state_tuple] = event
        return event

    def member(self, user: str, membership: str, *, by: str | None = None, **content: Any) -> Event:
        """Send a membership, by the user unless said otherwise."""
        return self.send("m.room.member", by or user, {"membership": membership, **content}, user)

    def member_event(self, user: str, membership: str, *, by: str | None = None, **content: Any) -> Event:
        """Make, but do not send, a membership."""
        return self.event("m.room.member", by or user, {"membership": membership, **content}, user)

    def join_rules(self, rule: object, *, by: str = ALICE) -> Event:
        """Send join rules."""
        return self.send("m.room.join_rules", by, {"join_rule": rule}, "")

    def power_levels(
        self, content: Mapping[str, Any] | None = None, *, by: str = ALICE, **users: int
    ) -> Event:
        """Send power levels; `alice=100` is Alice's entry in `users`, left out where version 12 forbids
        it.
        """
        return self.send("m.room.power_levels", by, self.levels(content, **users), "")

    def levels(self, content: Mapping[str, Any] | None = None, **users: int) -> dict[str, Any]:
        """A power levels content with the named users' levels."""
        entries = {f"@{name}:{name}.example": level for name, level in users.items()}
        if self.version.privileged_creators:
            entries.pop(self.create.sender, None)
        return {"users": entries, **(content or {})}

    def _references(self, event_ids: Iterable[str]) -> list[Any]:
        if self.version.chooses_event_ids:
            return [[event_id, {"sha256": "unhashed"}] for event_id in event_ids]
        return list(event_ids)


def public_room(version: str, *joined: str, **levels: int) -> Room:
    """A public room of Alice's with power levels (Alice 100 unless given) and members."""
    room = Room(version)
    room.member(ALICE, "join")
    room.power_levels(room.levels(None, **{"alice": 100, **levels}))
    room.join_rules("public")
    for user in joined:
        room.member(user, "join")
    return room
