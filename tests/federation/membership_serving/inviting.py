# SPDX-License-Identifier: Apache-2.0
"""A room on another server, from which it invites users of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.protocol.building import BuiltEvent
from tests.federation.membership_serving.world import V1, V2, Serving, path
from tests.federation.servers import RemoteServer
from tests.rooms.services_fixture import alice
from tests.web.loopback import Answer


class FarRoom:
    """A room of `server`, made by `@alice` of it."""

    def __init__(self, server: RemoteServer, version: str, *, room_id: str | None = None) -> None:
        self.server = server
        self.version = version
        self.create = server.pdu(
            version=version,
            room_id=None if version == "12" else room_id or server.room_id(version),
            event_type="m.room.create",
            state_key="",
            content={"room_version": version, "creator": server.user()},
        )
        self.room_id = self.create.event.room_id
        self.member = self.state("m.room.member", {"membership": "join"}, server.user())
        self.name = self.state("m.room.name", {"name": "Far away"})

    def state(
        self, event_type: str, content: Mapping[str, Any], state_key: str = "", **more: Any
    ) -> BuiltEvent:
        """A state event of the room."""
        auth = [] if self.version == "12" else [self.create]
        return self.server.pdu(
            version=self.version,
            room_id=self.room_id,
            event_type=event_type,
            content=content,
            state_key=state_key,
            prev=[self.create],
            auth=auth,
            **more,
        )

    def invite(self, user_id: str = alice.user_id, **content: Any) -> BuiltEvent:
        """An invite."""
        return self.state("m.room.member", {"membership": "invite", **content}, user_id)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """What goes along with it, as whole events."""
        return [self.create.event.pdu, self.name.event.pdu]


async def send_invite(
    serving: Serving,
    room: FarRoom,
    pdu: Any,
    *,
    event_id: str,
    shown: Any = None,
    room_id: str | None = None,
    version: str | None = None,
    server: RemoteServer | None = None,
    under: str = V2,
) -> Answer:
    """The request, by v2 unless told otherwise."""
    shown = room.shown if shown is None else shown
    target = path(under, "invite", room_id or room.room_id, event_id)
    if under == V1:
        body: dict[str, Any] = {**pdu, "unsigned": {"age": 1, "invite_room_state": shown}}
    else:
        body = {"room_version": version or room.version, "event": pdu, "invite_room_state": shown}
    return await serving.signed(server or room.server, "PUT", target, body)


async def standing(serving: Serving, room: FarRoom, user_id: str = alice.user_id) -> tuple[str, str] | None:
    """What our user is in the room, and what they are shown of it."""
    for each in (await serving.house.engine.user_rooms.of(user_id)).values():
        if each.room_id == room.room_id:
            return each.membership, each.stripped_state or "[]"
    return None
