# SPDX-License-Identifier: Apache-2.0
"""Endpoints of membership for rooms of other servers: what they ask for, and what a client is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.errors import NotFound, RemoteServerFailed
from homeserver.rooms.engine import Plan
from homeserver.rooms.remote import FoundRoom
from storage.database import Database
from tests.clientapi.room_site import RoomSite
from tests.rooms.services_fixture import House

ROOM = "!deep:hydra.test"


class Elsewhere:
    """Other servers that let everybody in, or nobody."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, Sequence[str], Mapping[str, Any]]] = []
        self.down = False

    async def _ask(
        self, verb: str, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str:
        self.asked.append((verb, user_id, room_id, servers, content))
        if self.down:
            raise RemoteServerFailed("nobody there")
        return "$event"

    async def join(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str | None:
        return await self._ask("join", user_id, room_id, servers, content)

    async def knock(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str:
        return await self._ask("knock", user_id, room_id, servers, content)

    async def leave(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str | None:
        return await self._ask("leave", user_id, room_id, servers, content)

    async def invite(self, room_id: str, user_id: str, plan: Plan, *, users: Sequence[str]) -> str:
        return await self._ask("invite", user_id, room_id, (), {})

    def check_reachable(self, user_id: str) -> None:
        return None

    async def resolve_alias(self, alias: str) -> FoundRoom:
        if alias != "#deep:hydra.test":
            raise NotFound("no such alias")
        return FoundRoom(ROOM, ["hydra.test", "other.test"])


async def test_servers_to_ask(database: Database) -> None:
    """By `via`, by its old name, by the alias, by the room id; nonsense is left out."""
    elsewhere = Elsewhere()
    site = RoomSite(await House.open(database, remote=elsewhere), database)
    path = f"/join/{ROOM}"
    answer = await site.ok("alice", "POST", path, {"reason": "why"}, via="a.test", server_name="b.test")
    assert answer == {"room_id": ROOM}
    await site.ok("alice", "POST", f"/knock/{ROOM}", {}, via="no server!")
    await site.ok("alice", "POST", "/join/%23deep:hydra.test".replace("%23", "#"), {}, via="a.test")
    await site.ok("alice", "POST", f"/rooms/{ROOM}/join", {})
    assert [(verb, list(servers)) for verb, _, _, servers, _ in elsewhere.asked] == [
        ("join", ["a.test", "b.test", "hydra.test"]),
        ("knock", ["hydra.test"]),
        ("join", ["a.test", "hydra.test", "other.test"]),
        ("join", ["hydra.test"]),
    ]
    assert elsewhere.asked[0][4] == {"membership": "join", "reason": "why"}
    await site.stop()


async def test_a_server_that_is_down(database: Database) -> None:
    """Is told by 502, so that clients may try again; an alias that is not there by 404."""
    elsewhere = Elsewhere()
    elsewhere.down = True
    site = RoomSite(await House.open(database, remote=elsewhere), database)
    answer = await site.call("alice", "POST", f"/join/{ROOM}", {})
    assert (answer.status, answer.json["errcode"]) == (502, "M_UNKNOWN")
    answer = await site.call("alice", "POST", "/join/#gone:hydra.test", {})
    assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
    answer = await site.call("guest", "POST", f"/join/{ROOM}", {})
    assert (answer.status, answer.json["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    await site.stop()


async def test_state_invites_too(database: Database) -> None:
    """A member event sent as state for a user of another server is an invite by way of it."""
    elsewhere = Elsewhere()
    house = await House.open(database, remote=elsewhere)
    site = RoomSite(house, database)
    room_id = await house.create()
    target = "@carol:hydra.test"
    await site.ok("alice", "PUT", f"/rooms/{room_id}/state/m.room.member/{target}", {"membership": "invite"})
    await site.ok("alice", "POST", f"/rooms/{room_id}/invite", {"user_id": target})
    assert [(verb, user) for verb, user, *_ in elsewhere.asked] == [("invite", target)] * 2
    await site.stop()
