# SPDX-License-Identifier: Apache-2.0
"""Servers that are in rooms and let others in: what they answer about a `RemoteRoom`, truthfully or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.event_format import parse_pdu
from homeserver.protocol.events import Event
from tests.federation.servers import Received, Refused, RemoteServer
from tests.rooms.arrival.remote_room import Json, RemoteRoom

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
Twist = Callable[[Json], object]


def _honestly(_answer: Json) -> None:
    """Changes nothing."""


class Resident:
    """A server's part in a room. `twist_*` change what it answers, in place."""

    def __init__(self, server: RemoteServer, room: RemoteRoom, *, short: bool = True) -> None:
        """`short`: whether it leaves members out when asked to."""
        self.server = server
        self.room = room
        self.short = short
        self.vouching = False
        """Whether it names a user of its own to vouch for joins."""
        self.twist_template: Twist = _honestly
        self.twist_answer: Twist = _honestly
        self.taken: list[Event] = []
        """Member events it was sent and took."""
        for kind in ("join", "leave", "knock"):
            server.on("GET", f"{V1}/make_{kind}/{{room_id}}/{{user_id}}", self._make(kind))
        server.on("PUT", f"{V2}/send_join/{{room_id}}/{{event_id}}", self._send_join)
        server.on("PUT", f"{V2}/send_leave/{{room_id}}/{{event_id}}", self._send_leave)
        server.on("PUT", f"{V1}/send_knock/{{room_id}}/{{event_id}}", self._send_knock)
        server.on("GET", f"{V1}/state_ids/{{room_id}}", self._state_ids)
        server.on("GET", f"{V1}/state/{{room_id}}", self._state)
        server.on("GET", f"{V1}/event/{{event_id}}", self._event)
        self._before: dict[str, list[BuiltEvent]] = {}
        """The whole state before each join it took."""

    def _make(self, kind: str) -> Callable[[Received], Json]:
        def make(request: Received) -> Json:
            self._check_room(request)
            if kind != "leave" and str(self.room.version) not in request.query["ver"]:
                raise Refused(
                    400, "M_INCOMPATIBLE_ROOM_VERSION", "too new", room_version=str(self.room.version)
                )
            content = {}
            if kind == "join" and self.vouching:
                content["join_authorised_via_users_server"] = self.server.user()
            event = self.room.template(request.parameters["user_id"], kind, **content)
            answer = {"room_version": str(self.room.version), "event": event}
            self.twist_template(answer)
            return answer

        return make

    def _take(self, request: Received) -> Event:
        self._check_room(request)
        pdu = request.json
        if self.vouching and pdu["content"]["membership"] == "join":
            pdu = self.server.sign_pdu(pdu, self.room.version)
        event = parse_pdu(pdu, self.room.version)
        assert event.event_id == request.parameters["event_id"]
        self.taken.append(event)
        return event

    def _send_join(self, request: Received) -> Json:
        event = self._take(request)
        self._before[event.event_id] = list(self.room.state.values())
        omit_members = self.short and request.query.get("omit_members") == ["true"]
        answer = orjson.loads(orjson.dumps(self.room.join_answer(event, omit_members=omit_members)))
        self.twist_answer(answer)
        return dict(answer)

    def _send_leave(self, request: Received) -> Json:
        event = self._take(request)
        self.room.add(BuiltEvent(event, orjson.dumps(event.pdu)))
        return {}

    def _send_knock(self, request: Received) -> Json:
        event = self._take(request)
        self.room.add(BuiltEvent(event, orjson.dumps(event.pdu)))
        shown = [
            b.event.pdu for key, b in self.room.state.items() if key[0] in ("m.room.create", "m.room.name")
        ]
        return {"knock_room_state": shown}

    def _state_ids(self, request: Received) -> Json:
        state = self._before[request.query["event_id"][0]]
        chain = self.room.auth_chain(state)
        return {
            "pdu_ids": [built.event.event_id for built in state],
            "auth_chain_ids": [built.event.event_id for built in chain],
        }

    def _state(self, request: Received) -> Json:
        state = self._before[request.query["event_id"][0]]
        chain = self.room.auth_chain(state)
        return {
            "pdus": [built.event.pdu for built in state],
            "auth_chain": [built.event.pdu for built in chain],
        }

    def _event(self, request: Received) -> Json:
        built = self.room.events.get(request.parameters["event_id"])
        if built is None:
            raise Refused(404, "M_NOT_FOUND")
        return {"origin": self.server.name, "origin_server_ts": 1, "pdus": [built.event.pdu]}

    def _check_room(self, request: Received) -> None:
        if request.parameters["room_id"] != self.room.id:
            raise Refused(404, "M_NOT_FOUND", "No such room")


def refuse(server: RemoteServer, kind: str, status: int, errcode: str, **fields: Any) -> None:
    """Have a server refuse to draft joins, knocks or leaves."""

    def handler(_request: Received) -> Json:
        raise Refused(status, errcode, "refused by the test", **fields)

    server.on("GET", f"{V1}/make_{kind}/{{room_id}}/{{user_id}}", handler)
