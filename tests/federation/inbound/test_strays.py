# SPDX-License-Identifier: Apache-2.0
"""Events of rooms nobody here is in: an invitation ends by who made it, and by nobody else."""

from __future__ import annotations

from typing import Any

from federation.inbound.strays import EndsOfInvitations
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import room_version
from homeserver.rooms.arrival import OutOfBand
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.intake.incoming import Incoming
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.memberships import MembershipStore
from tests.federation.servers import RemoteServer, make_key, now_ms
from tests.rooms.engine_fixture import ALICE, Engine

HYDRA, EVIL = RemoteServer("hydra.test"), RemoteServer("evil.test")
ROOM = "!room:hydra.test"
VERSION = room_version("11")


class Door:
    """Alice at the door of hydra's room, by an invite or a knock."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self.engine = engine
        self.doorway = OutOfBand(
            cache=engine.cache,
            stream=engine.stream,
            committer=engine.committer,
            store=ArrivalStore(database),
            events=engine.events,
            memberships=MembershipStore(database),
            signer=Signer("localhost", make_key("localhost")),
            now=now_ms,
        )
        self.strays = EndsOfInvitations(
            cache=engine.cache, events=engine.events, doorway=self.doorway, server_name="localhost"
        )

    async def standing(self) -> str | None:
        room = await self.engine.cache.get(ROOM)
        return None if room is None else room.head.membership(ALICE)

    async def ends_by(self, event: Event) -> bool:
        """Whether the event ends it."""
        return await self.strays.stray(HYDRA.name, incoming(event))


def incoming(event: Event) -> Incoming:
    return Incoming(event, encode_canonical(event.pdu).decode())


def member(membership: str, auth: list[Event], *, by: RemoteServer = HYDRA, **more: Any) -> Event:
    content = {"membership": membership}
    more = {"state_key": ALICE, **more}
    return by.pdu(
        version="11", room_id=ROOM, event_type="m.room.member", content=content, auth=auth, **more
    ).event


async def test_an_invitation_is_taken_back_by_who_made_it(database: Database) -> None:
    """Not by others of the room, of other servers, in words that do not mean it, nor for somebody else."""
    door = Door(await Engine.open(database), database)
    invite = member("invite", [])
    assert await door.doorway.invited(VERSION, incoming(invite), [])
    for event in (
        member("leave", [invite], by=EVIL),
        member("leave", [invite], sender=HYDRA.user("bob")),
        member("leave", []),
        member("join", [invite]),
        member("leave", [invite], state_key="@bob:localhost"),
        member("leave", [invite], state_key="@bob:hydra.test"),
        member("leave", [invite], state_key="nobody"),
        member("leave", [invite], state_key=None),
    ):
        assert not await door.ends_by(event)
    assert await door.standing() == "invite"
    assert await door.ends_by(member("leave", [invite]))
    assert await door.standing() == "leave"
    assert not await door.ends_by(member("leave", [invite]))


async def test_a_knock_is_turned_down_by_who_saw_it(database: Database) -> None:
    """Any of the room's moderators may do that, and only its servers know the knock's id."""
    door = Door(await Engine.open(database), database)
    knock = member("knock", [], sender=ALICE)
    assert await door.doorway.knocked(VERSION, incoming(knock), [])
    assert not await door.ends_by(member("ban", [], by=EVIL))
    assert await door.ends_by(member("ban", [knock], sender=HYDRA.user("moderator")))
    assert await door.standing() == "ban"
