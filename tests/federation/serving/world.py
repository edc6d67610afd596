# SPDX-License-Identifier: Apache-2.0
"""This server with rooms and everything that others may read, behind HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from federation.serving.reading import reading_routes
from homeserver.errors import NotFound
from storage.server_memberships import ServerMembershipStore
from tests.federation.membership_serving.world import US, V1, Serving, Visitor, breathe, path
from tests.federation.servers import now_ms
from tests.rooms.services_fixture import alice
from tests.web.loopback import Answer

SETTINGS = ("world_readable", "shared", "invited", "joined")


@dataclass(slots=True)
class KnownProfiles:
    """Profiles of this server's users."""

    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def get(self, user_id: str) -> dict[str, Any]:
        if user_id not in self.profiles:
            raise NotFound("Profile not found")
        return self.profiles[user_id]

    async def get_field(self, user_id: str, key: str) -> Any:
        profile = await self.get(user_id)
        if key not in profile:
            raise NotFound("The profile has no such field")
        return profile[key]


class Reading(Serving):
    """`Serving` with the endpoints for reading besides the handshakes."""

    profiles: KnownProfiles

    def _routes(self, memberships: ServerMembershipStore) -> list[Any]:
        self.profiles = KnownProfiles()
        rooms = self.house.rooms
        return [
            *super()._routes(memberships),
            *reading_routes(
                server_name=US,
                database=self.database,
                cache=self.house.engine.cache,
                gate=self.gate,
                profiles=self.profiles,
                aliases=rooms.aliases,
                directory=rooms.directory,
                now=now_ms,
                breathe=breathe,
            ),
        ]

    async def get(self, visitor: Visitor, *segments: str, query: Sequence[tuple[str, str]] = ()) -> Answer:
        """A visitor's server reads."""
        return await self.signed(visitor.server, "GET", path(V1, *segments, query=query))

    async def post(self, visitor: Visitor, *segments: str, body: Mapping[str, Any]) -> Answer:
        """The same with a body."""
        return await self.signed(visitor.server, "POST", path(V1, *segments), body)

    async def room(self, visibility: str = "shared", *, version: str = "11", **wishes: Any) -> str:
        """A public room of Alice's."""
        room_id = await self.house.create(preset="public_chat", version=version, **wishes)
        content = {"history_visibility": visibility}
        await self.house.set(alice, room_id, "m.room.history_visibility", content)
        return room_id

    async def say(self, room_id: str, body: str) -> str:
        """Alice sends a message."""
        return await self.house.engine.send(room_id, alice.user_id, body)

    async def shut_out(self, room_id: str, visitor: Visitor) -> None:
        """By the room's access control list."""
        acl = {"allow": ["*"], "deny": [visitor.server.name]}
        await self.house.set(alice, room_id, "m.room.server_acl", acl)

    async def newest(self, room_id: str) -> str:
        """The id of the room's newest event."""
        return (await self.head(room_id)).extremities[0][0]


async def leave(visitor: Visitor, room_id: str) -> None:
    """The visitor goes."""
    event = (await visitor.filled("leave", room_id)).event
    assert (await visitor.send("leave", room_id, event.pdu, event_id=event.event_id)).status == 200


def bodies(pdus: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """The texts of messages, None for redacted ones; other events are left out."""
    return [pdu["content"].get("body") for pdu in pdus if pdu["type"] == "m.room.message"]
