# SPDX-License-Identifier: Apache-2.0
"""A room's graph as other servers would write it, with a plain reference of what its states are.

Events are built and authorized as the specification says, over whole state maps kept in memory; nothing of the intake
is used, so that what it makes of the same events can be compared.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import orjson

from homeserver.protocol.building import build_event
from homeserver.protocol.event_auth import AuthError, auth_types_for, check_auth_events, check_event_auth
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import reference_hash
from homeserver.protocol.room_versions import RoomVersion
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.state_resolution import EventsInMemory, StateKey, resolve
from homeserver.protocol.unpadded_base64 import encode_base64
from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming
from storage.database import Database
from storage.packing import pdu_of

KEY = SigningKey.from_seed("ed25519:remote", bytes(range(32)))
CREATE: StateKey = ("m.room.create", "")
MEMBER = "m.room.member"

_ticks = count(1_700_000_000_000)


def clock() -> int:
    """Milliseconds; no event is of the same time as another."""
    return next(_ticks)


class Dag:
    """The events known of one room, and the state after each."""

    def __init__(self, room_id: str, version: RoomVersion) -> None:
        self.room_id = room_id
        self.version = version
        self.events: dict[str, Event] = {}
        self.after: dict[str, dict[StateKey, str]] = {}
        self.incoming: dict[str, Incoming] = {}
        self.rejected: set[str] = set()

    @classmethod
    async def of(cls, database: Database, room: Room) -> Dag:
        """The graph of a room that the engine made."""
        dag = cls(room.room_id, room.head.version)
        await dag.learn(database, room)
        return dag

    async def learn(self, database: Database, room: Room) -> None:
        """Take in what the engine wrote since."""
        rows = await database.fetch(
            "test",
            f"SELECT event_id, {pdu_of('e')} FROM events e WHERE room = %s ORDER BY ordinal",
            (room.key,),
        )
        for event_id, pdu in rows:
            if event_id not in self.events:
                self.add(Event.from_pdu(orjson.loads(pdu), self.version, event_id), pdu)

    def add(self, event: Event, pdu: str) -> Incoming:
        """An event joins the graph; rejected ones are no state."""
        self.events[event.event_id] = event
        state = self.before(event)
        if not self.allowed(event, state):
            self.rejected.add(event.event_id)
        elif event.state_key is not None:
            state = {**state, event.state_tuple: event.event_id}
        self.after[event.event_id] = state
        self.incoming[event.event_id] = Incoming(event, pdu)
        return self.incoming[event.event_id]

    def before(self, event: Event) -> dict[StateKey, str]:
        return self.resolved(event.prev_event_ids)

    def resolved(self, ends: Iterable[str]) -> dict[StateKey, str]:
        """The state that the states after some events make."""
        states: list[dict[StateKey, str]] = []
        for end in ends:
            if self.after[end] not in states:
                states.append(self.after[end])
        return resolve(self.version, states, EventsInMemory(self.events))

    def allowed(self, event: Event, state: Mapping[StateKey, str]) -> bool:
        """Whether a state, and what it cites, let an event be."""
        create = [state[CREATE]] if CREATE in state else []
        cited = [self.events[auth_id] for auth_id in event.auth_event_ids]
        needed = auth_types_for(self.version, event.type, event.sender, event.state_key, event.content)
        try:
            check_auth_events(event, cited, self.rejected)
            check_event_auth(
                event,
                {e.state_tuple: e for e in (*cited, *(self.events[each] for each in create))},
            )
            held = {key: self.events[state[key]] for key in (CREATE, *needed) if key in state}
            check_event_auth(event, held)
        except AuthError:
            return False
        return True

    def write(
        self,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        prev: Sequence[str],
        auth: Sequence[str] | None = None,
        redacts: str | None = None,
        timestamp: int | None = None,
        depth: int | None = None,
    ) -> Incoming:
        """An event of a user of another server, on the events `prev`; cites what the state before it has."""
        state = self.resolved(prev)
        if auth is None:
            keys = auth_types_for(self.version, event_type, sender, state_key, content)
            auth = [state[key] for key in keys if key in state]
        event_id, hashes = None, {}
        if self.version.chooses_event_ids:
            event_id = f"${secrets.token_urlsafe(12)}:{sender.partition(':')[2]}"
            hashes = {
                each: encode_base64(reference_hash(self.events[each].pdu, self.version))
                for each in (*prev, *auth)
            }
        built = build_event(
            room_version=self.version,
            room_id=self.room_id,
            event_type=event_type,
            state_key=state_key,
            sender=sender,
            content=dict(content),
            prev_event_ids=list(prev),
            auth_event_ids=list(auth),
            depth=max(self.events[each].depth for each in prev) + 1 if depth is None else depth,
            origin_server_ts=clock() if timestamp is None else timestamp,
            server_name=sender.partition(":")[2],
            signing_key=KEY,
            redacts=redacts,
            event_id=event_id,
            reference_hashes=hashes,
        )
        return self.add(built.event, built.json_bytes.decode())

    def join(self, user: str, *, prev: Sequence[str]) -> Incoming:
        return self.write(user, MEMBER, {"membership": "join"}, user, prev=prev)

    def say(self, user: str, body: str, *, prev: Sequence[str]) -> Incoming:
        return self.write(user, "m.room.message", {"msgtype": "m.text", "body": body}, prev=prev)

    def topic(self, user: str, topic: str, *, prev: Sequence[str]) -> Incoming:
        return self.write(user, "m.room.topic", {"topic": topic}, "", prev=prev)


def ids(*incoming: Incoming) -> list[str]:
    """Their event ids."""
    return [each.event.event_id for each in incoming]
