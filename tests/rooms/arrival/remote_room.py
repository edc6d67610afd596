# SPDX-License-Identifier: Apache-2.0
"""A room of other servers: a line of signed events, and what those servers answer about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.event_auth import auth_types_for
from homeserver.protocol.event_format import parse_pdu
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion, room_version
from homeserver.rooms.intake.incoming import Incoming
from tests.federation.servers import RemoteServer

Json = dict[str, Any]
StateKey = tuple[str, str]


def incoming(built: BuiltEvent) -> Incoming:
    """An event as the reading of PDUs hands it on."""
    return Incoming(built.event, built.json_bytes.decode())


class RemoteRoom:
    """A room that `server` made, with its first user in it."""

    def __init__(
        self,
        server: RemoteServer,
        version: str = "11",
        *,
        join_rule: str = "public",
        visibility: str = "shared",
        create: Mapping[str, Any] | None = None,
        rules: Mapping[str, Any] | None = None,
        room_id: str | None = None,
    ) -> None:
        self.server = server
        self.version: RoomVersion = room_version(version)
        self.events: dict[str, BuiltEvent] = {}
        self.state: dict[StateKey, BuiltEvent] = {}
        self.latest: list[BuiltEvent] = []
        creator = server.user()
        content: Json = {"room_version": version, **(create or {})}
        if self.version.create_has_creator:
            content.setdefault("creator", creator)
        self.room_id: str | None = None
        if not self.version.room_id_is_create_hash:
            self.room_id = room_id or server.room_id(version)
        made = self.send("m.room.create", content, "")
        self.room_id = made.event.room_id
        self.member(creator, "join")
        users = {} if self.version.privileged_creators else {creator: 100}
        self.send("m.room.power_levels", {"users": users}, "")
        self.send("m.room.join_rules", {"join_rule": join_rule, **(rules or {})}, "")
        self.send("m.room.history_visibility", {"history_visibility": visibility}, "")

    @property
    def id(self) -> str:
        """The room's id."""
        assert self.room_id is not None
        return self.room_id

    @property
    def servers(self) -> set[str]:
        """Servers with joined members."""
        return {
            key[1].partition(":")[2]
            for key, built in self.state.items()
            if key[0] == "m.room.member" and built.event.content["membership"] == "join"
        }

    def event(
        self,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        sender: str | None = None,
        by: RemoteServer | None = None,
        prev: Sequence[BuiltEvent] | None = None,
    ) -> BuiltEvent:
        """An event on top of the room that is not sent into it."""
        server = by or self.server
        sender = sender or server.user()
        keys = auth_types_for(self.version, event_type, sender, state_key, content)
        return server.pdu(
            version=self.version,
            room_id=self.room_id,
            event_type=event_type,
            sender=sender,
            content=content,
            state_key=state_key,
            prev=self.latest if prev is None else prev,
            auth=[self.state[key] for key in keys if key in self.state],
        )

    def send(
        self,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        sender: str | None = None,
        by: RemoteServer | None = None,
    ) -> BuiltEvent:
        """An event at the room's end."""
        return self.add(self.event(event_type, content, state_key, sender=sender, by=by))

    def add(self, built: BuiltEvent) -> BuiltEvent:
        """Put an event at the room's end."""
        self.events[built.event.event_id] = built
        self.latest = [built]
        if built.event.state_key is not None:
            self.state[built.event.state_tuple] = built
        return built

    def member(
        self, user_id: str, membership: str, *, sender: str | None = None, by: RemoteServer | None = None
    ) -> BuiltEvent:
        """A membership, by the user themselves unless said otherwise."""
        return self.send(
            "m.room.member", {"membership": membership}, user_id, sender=sender or user_id, by=by
        )

    def message(self, body: str = "hello", *, by: RemoteServer | None = None) -> BuiltEvent:
        """A message."""
        return self.send("m.room.message", {"msgtype": "m.text", "body": body}, by=by)

    def fill(self, count: int, by: RemoteServer) -> list[str]:
        """Join so many users of a server."""
        users = [f"@user{number}:{by.name}" for number in range(count)]
        for user in users:
            self.member(user, "join", by=by)
        return users

    # What is said of it

    def auth_chain(self, events: Iterable[BuiltEvent]) -> list[BuiltEvent]:
        """Everything those events cite, directly or not."""
        found: dict[str, BuiltEvent] = {}
        waiting = [event_id for built in events for event_id in built.event.auth_event_ids]
        while waiting:
            event_id = waiting.pop()
            if event_id not in found:
                found[event_id] = self.events[event_id]
                waiting.extend(found[event_id].event.auth_event_ids)
        return list(found.values())

    def template(self, user_id: str, membership: str = "join", **content: Any) -> Json:
        """The event of an answer to make_join, make_knock or make_leave."""
        body = {"membership": membership, **content}
        keys = auth_types_for(self.version, "m.room.member", user_id, user_id, body)
        draft = self.server.pdu(
            version=self.version,
            room_id=self.room_id,
            event_type="m.room.member",
            sender=user_id,
            content=body,
            state_key=user_id,
            prev=self.latest,
            auth=[self.state[key] for key in keys if key in self.state],
        )
        pdu: Json = orjson.loads(draft.json_bytes)
        for key in ("hashes", "signatures", "event_id"):
            pdu.pop(key, None)
        return pdu

    def join_answer(self, join: Event, *, omit_members: bool = False) -> Json:
        """The answer to send_join, which puts the join at the room's end."""
        state = list(self.state.values())
        cited = [self.events[event_id] for event_id in join.auth_event_ids]
        if omit_members:
            state = [built for key, built in self.state.items() if key[0] != "m.room.member"]
        chain = {b.event.event_id: b for b in [*self.auth_chain([*state, *cited]), *cited]}
        answer: Json = {
            "state": [built.event.pdu for built in state],
            "auth_chain": [built.event.pdu for built in chain.values()],
            "event": join.pdu,
        }
        if omit_members:
            shown = {built.event.event_id for built in state}
            answer["auth_chain"] = [b.event.pdu for key, b in chain.items() if key not in shown]
            answer["members_omitted"] = True
            answer["servers_in_room"] = sorted(self.servers)
        self.add(BuiltEvent(join, orjson.dumps(join.pdu)))
        return answer

    def parsed(self, pdus: Sequence[Json]) -> list[Incoming]:
        """PDUs as the reading hands them on."""
        return [Incoming(parse_pdu(pdu, self.version), orjson.dumps(pdu).decode()) for pdu in pdus]
