# SPDX-License-Identifier: Apache-2.0
"""Whether events that come without their place in the room stand by the events they cite. Pure.

Owns the order (an event after those it cites), the check of each against its auth events, and the bitmap of its auth
chain. The graph may be hostile: what cites events nobody has, or goes in circles, is told apart, not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from pyroaring import BitMap

from homeserver.protocol.errors import ProtocolError
from homeserver.protocol.event_auth import AuthError, check_auth_events, check_event_auth
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.intake.incoming import Incoming


class Standing(Struct, frozen=True):
    """An event and what is known of it: stored already, or judged."""

    event: Event
    ordinal: int
    chain: BitMap
    """Ordinals of its auth chain."""
    rejected: bool


class Judged(Struct, frozen=True):
    """A new event and the verdict."""

    incoming: Incoming
    standing: Standing
    reason: str = ""
    """Why it is rejected."""


def create_event_id(version: RoomVersion, room_id: str) -> str | None:
    """The id of a room's create event, where the room id tells it."""
    return "$" + room_id[1:] if version.room_id_is_create_hash else None


class Judging:
    """Judges events of one room, given those that stand already."""

    def __init__(
        self,
        room_id: str,
        version: RoomVersion,
        events: Sequence[Incoming],
        stand: Mapping[str, Standing],
        ordinals: Mapping[str, int],
    ) -> None:
        """`stand`: by id, every stored event that one of `events` cites or is. `ordinals`: those of the events."""
        self._room_id = room_id
        self._version = version
        self._create_id = create_event_id(version, room_id)
        self._ordinals = ordinals
        self._waiting = {e.event.event_id: e for e in events if e.event.event_id not in stand}
        self.standings: dict[str, Standing] = dict(stand)
        """Every event that was found to stand or to be rejected, by id. What is in neither was left out: it cites what
        nobody has, is of another room, or is no state."""

    def run(self) -> Iterator[Judged]:
        """The new events one by one, each after those it cites."""
        for event_id in self._in_order():
            incoming = self._waiting[event_id]
            reason = self._problem(incoming.event)
            chain = BitMap()
            for auth_id in incoming.event.auth_event_ids:
                cited = self.standings[auth_id]
                chain |= cited.chain
                chain.add(cited.ordinal)
            standing = Standing(incoming.event, self._ordinals[event_id], chain, bool(reason))
            self.standings[event_id] = standing
            yield Judged(incoming, standing, reason)

    def _cited(self, event: Event) -> tuple[str, ...]:
        """What must be judged before the event is."""
        if self._create_id is None or event.event_id == self._create_id:
            return event.auth_event_ids
        return (*event.auth_event_ids, self._create_id)

    def _in_order(self) -> Iterator[str]:
        open_citations: dict[str, int] = {}
        citing: dict[str, list[str]] = {}
        ready: list[str] = []
        for event_id, incoming in self._waiting.items():
            event = incoming.event
            if event.state_key is None or event.room_id != self._room_id:
                continue
            wanted = {cited for cited in self._cited(event) if cited not in self.standings}
            for cited in wanted:
                citing.setdefault(cited, []).append(event_id)
            if wanted:
                open_citations[event_id] = len(wanted)
            else:
                ready.append(event_id)
        while ready:
            event_id = ready.pop()
            yield event_id
            for other in citing.get(event_id, ()):
                open_citations[other] -= 1
                if not open_citations[other]:
                    ready.append(other)

    def _problem(self, event: Event) -> str:
        """Why the events it cites do not let it stand; empty if they do."""
        cited = [self.standings[event_id] for event_id in event.auth_event_ids]
        rejected = {standing.event.event_id for standing in cited if standing.rejected}
        if self._create_id is not None and event.event_id != self._create_id:
            create = self.standings[self._create_id]
            if create.rejected:
                rejected.add(self._create_id)
            auth_state = {("m.room.create", ""): create.event}
        else:
            auth_state = {}
        auth_state.update(
            (standing.event.state_tuple, standing.event)
            for standing in cited
            if standing.event.state_key is not None
        )
        try:
            check_auth_events(event, [standing.event for standing in cited], rejected)
            check_event_auth(event, auth_state)
        except AuthError as error:
            return str(error) or "not allowed by the events it cites"
        except (ProtocolError, LookupError) as error:  # what no rule foresees is no reason to let it in
            return f"cannot be judged: {error}"
        return ""
