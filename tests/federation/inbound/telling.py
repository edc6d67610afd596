# SPDX-License-Identifier: Apache-2.0
"""What an honest server answers when it is asked for events of a room that it knows: a room without forks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from homeserver.protocol.events import Event
from tests.federation.servers import Received, Refused, RemoteServer

PREFIX = "/_matrix/federation/v1"


class Telling:
    """Of those events, by id; the mapping may grow and shrink. The state before one is what is less deep."""

    def __init__(self, events: Mapping[str, Event]) -> None:
        self._events = events

    def serve(self, server: RemoteServer) -> None:
        """Have the server answer so."""
        server.on("POST", f"{PREFIX}/get_missing_events/{{room}}", self._missing)
        server.on("GET", f"{PREFIX}/event/{{event}}", self._event)
        server.on("GET", f"{PREFIX}/state_ids/{{room}}", self._state_ids)
        server.on("GET", f"{PREFIX}/state/{{room}}", self._state)
        server.on("GET", f"{PREFIX}/event_auth/{{room}}/{{event}}", self._event_auth)

    def _missing(self, request: Received) -> Any:
        found: dict[str, Event] = {}
        wanted = list(request.json["latest_events"])
        while wanted and len(found) < request.json["limit"]:
            event = self._events.get(wanted.pop(0))
            for name in event.prev_event_ids if event is not None else ():
                if name in self._events and name not in found and name not in request.json["earliest_events"]:
                    found[name] = self._events[name]
                    wanted.append(name)
        return {"events": [each.pdu for each in found.values()]}

    def _event(self, request: Received) -> Any:
        event = self._asked(request.parameters["event"])
        return {"origin": "anybody", "origin_server_ts": 1, "pdus": [event.pdu]}

    def _state_ids(self, request: Received) -> Any:
        state = self.state_at(self._asked(request.query["event_id"][0]))
        return {
            "pdu_ids": [each.event_id for each in state],
            "auth_chain_ids": [each.event_id for each in self._auth_chain(state)],
        }

    def _state(self, request: Received) -> Any:
        state = self.state_at(self._asked(request.query["event_id"][0]))
        return {
            "pdus": [each.pdu for each in state],
            "auth_chain": [each.pdu for each in self._auth_chain(state)],
        }

    def _event_auth(self, request: Received) -> Any:
        chain = self._auth_chain([self._asked(request.parameters["event"])])
        return {"auth_chain": [each.pdu for each in chain]}

    def _asked(self, event_id: str) -> Event:
        event = self._events.get(event_id)
        if event is None:
            raise Refused(404, "M_NOT_FOUND")
        return event

    def state_at(self, event: Event) -> list[Event]:
        """The state before an event."""
        state: dict[tuple[str, str], Event] = {}
        for each in sorted(self._events.values(), key=lambda each: each.depth):
            if each.is_state and each.depth < event.depth:
                state[each.state_tuple] = each
        return list(state.values())

    def _auth_chain(self, events: Iterable[Event]) -> list[Event]:
        found: dict[str, Event] = {}
        wanted = [name for each in events for name in each.auth_event_ids]
        while wanted:
            name = wanted.pop()
            if name in self._events and name not in found:
                found[name] = self._events[name]
                wanted.extend(found[name].auth_event_ids)
        return list(found.values())
