# SPDX-License-Identifier: Apache-2.0
"""Where the attacks take place: our server process, hostile servers, and rooms that both are in.

Owns getting into rooms either way, and the proof that one goes on: an honest user of the hostile server and one of ours
still hear each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import orjson

from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.event_format import parse_pdu
from homeserver.protocol.room_versions import room_version
from tests.federation.hostile.hostile_server import V1, V2, HostileServer, Json, segment
from tests.federation.inbound.forging import resigned
from tests.federation.membership.resident import Resident
from tests.federation.servers import Received, Refused
from tests.interop.federation.people import Person
from tests.rooms.arrival.remote_room import RemoteRoom

_serial = count(1)


class OurRoom(RemoteRoom):
    """A room that one of our users made, as the hostile server sees it, whose users `mallory` and `bob` are in it."""

    def __init__(
        self,
        host: Person,
        hostile: HostileServer,
        version: str = "11",
        *,
        visited: str | None = None,
        **wishes: Any,
    ) -> None:
        """`visited`: a room that is there already; else one is made, as `wishes` say."""
        self.server: HostileServer = hostile
        self.version = room_version(version)
        self.events: dict[str, BuiltEvent] = {}
        self.state: dict[tuple[str, str], BuiltEvent] = {}
        self.latest: list[BuiltEvent] = []
        self.host = host
        self.room_id = visited or host.create_room(room_version=version, **wishes)
        for user_id in (hostile.mallory, hostile.bob):
            self.joins(user_id)

    def joins(self, user_id: str) -> BuiltEvent:
        """By the handshake, after which all state is known here."""
        join = self.drafted(user_id)
        target = f"{V2}/send_join/{segment(self.id)}/{segment(join.event.event_id)}"
        answer = self.server.request("PUT", target, join.event.pdu)
        assert answer.status == 200, answer
        for pdu in (*answer.json["auth_chain"], *answer.json["state"]):
            event = parse_pdu(pdu, self.version)
            self.events[event.event_id] = BuiltEvent(event, orjson.dumps(pdu))
        for pdu in answer.json["state"]:
            event = parse_pdu(pdu, self.version)
            self.state[event.state_tuple] = self.events[event.event_id]
        return self.add(join)

    def drafted(self, user_id: str) -> BuiltEvent:
        """The join that our server drafts for one of its users, signed by the hostile server."""
        target = f"{V1}/make_join/{segment(self.id)}/{segment(user_id)}?ver={self.version}"
        answer = self.server.request("GET", target)
        assert answer.status == 200, answer
        return self.filled(answer.json["event"])

    def filled(self, template: Json) -> BuiltEvent:
        """The event of a template, made whole by the hostile server."""
        if self.version.chooses_event_ids:
            template = {**template, "event_id": f"$theirs{next(_serial)}:{self.server.name}"}
        pdu = forged(self, template)
        return BuiltEvent(parse_pdu(pdu, self.version), orjson.dumps(pdu))

    def goes_on(self) -> None:
        """Bob is heard by our user, and our user by the hostile server."""
        goes_on(self, self.host, self.server)


class TheirRoom(RemoteRoom):
    """A room of a hostile server that it lets users of ours into. `resident` is where lies are put in."""

    def __init__(self, hostile: HostileServer, version: str = "11", **wishes: Any) -> None:
        self.hostile = hostile
        super().__init__(hostile, version, **wishes)
        for user_id in (hostile.mallory, hostile.bob):
            self.member(user_id, "join")
        self.resident = Resident(hostile, self, short=False)
        for path in ("state", "state_ids"):
            hostile.on("GET", f"{V1}/{path}/{{room}}", _unknown)

    def goes_on(self, guest: Person) -> None:
        """As in rooms of ours."""
        goes_on(self, guest, self.hostile)


def _unknown(_request: Received) -> Any:
    raise Refused(404, "M_NOT_FOUND")


def goes_on(room: RemoteRoom, ours: Person, hostile: HostileServer) -> None:
    """An honest event of each side arrives at the other."""
    theirs, answer = f"honest {next(_serial)}", f"honest {next(_serial)}"
    built = room.send("m.room.message", {"msgtype": "m.text", "body": theirs}, sender=hostile.bob)
    assert hostile.send(built) == {built.event.event_id: {}}
    ours.hears(room.id, theirs)
    ours.say(room.id, answer)
    hostile.hears(answer)


def forged(room: RemoteRoom, pdu: Mapping[str, Any], **changes: Any) -> Json:
    """A PDU with some fields changed (None: left out), hashed and signed anew by the room's hostile server."""
    fields = {key: value for key, value in {**pdu, **changes}.items() if value is not None}
    return resigned({**fields, "signatures": {}}, str(room.version), room.server)


def refused(hostile: HostileServer, *pdus: Any) -> None:
    """Each has an error of its own in the answer, none is good."""
    answer = hostile.transaction(list(pdus))
    assert answer.status == 200, answer
    results = answer.json["pdus"]
    assert all("error" in result for result in results.values()), results


def unseen(room: RemoteRoom, ours: Person, *texts: str) -> None:
    """None of the texts is anywhere in what our user can read of the room."""
    shown = [
        ours.call("GET", f"v3/rooms/{segment(room.id)}/state"),
        ours.messages(room.id, limit=100),
        ours.call("GET", "v3/sync", query={"full_state": "true"}),
    ]
    for text in texts:
        for place in shown:
            assert text not in orjson.dumps(place).decode(), text
