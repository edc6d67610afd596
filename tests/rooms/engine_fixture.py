# SPDX-License-Identifier: Apache-2.0
"""A room engine on a real database, as a process has it, for tests of the engine and of the services on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from twisted.internet.task import deferLater

from homeserver.protocol.room_versions import room_version
from homeserver.protocol.signing import SigningKey
from homeserver.rooms.access import RoomGate
from homeserver.rooms.engine import Draft, Room, RoomCache, RoomEngine, RoomHead
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.recommending import NoPolicyServers, PolicyServers
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.engine.writer import WriterTools
from homeserver.rooms.user_rooms import UserRooms
from homeserver.stream import Committer, Recovery, Stream
from storage.database import Database
from storage.events import EventStore
from storage.memberships import MembershipStore
from storage.rooms import RoomStore
from storage.state import StateStore
from storage.stream import PARTS, StreamStore
from tests.reactor import reactor

ALICE, BOB, CAROL = "@alice:localhost", "@bob:localhost", "@carol:localhost"


class _Others:
    has_others = True


@dataclass(frozen=True, slots=True)
class Engine:
    """One process's worth of rooms."""

    database: Database
    stream: Stream
    committer: Committer
    engine: RoomEngine
    cache: RoomCache
    member_events: MemberEvents
    gate: RoomGate
    user_rooms: UserRooms
    events: EventStore

    @classmethod
    async def open(
        cls,
        database: Database,
        *,
        budget: int = 50_000_000,
        clock: Callable[[], int] | None = None,
        policy_servers: PolicyServers | None = None,
        tells: bool = False,
    ) -> Engine:
        """Assembled as `app/core.py` does, without HTTP. `tells`: other processes are told what was written."""
        origin = secrets.token_hex(8)
        stream_store = StreamStore(database, origin)
        stream = Stream(origin=origin, position=await stream_store.position())
        await database.listen("stream", stream.heard)
        await database.listen(PARTS, stream.heard_part)
        events, memberships = EventStore(database), MembershipStore(database)
        member_events = MemberEvents(events, budget // 4)
        cache = RoomCache(RoomStore(database), member_events, budget, stream.listeners)
        user_rooms = UserRooms(memberships, is_ours=lambda user_id: user_id.endswith(":localhost"))
        stream.subscribe(member_events)
        stream.subscribe(cache)
        stream.subscribe(user_rooms)
        recovery = Recovery(stream_store, stream, _pause)
        committer = Committer(stream_store, stream, recovery, others=_Others() if tells else None)
        ticks = count(1_700_000_000_000)
        engine = RoomEngine(
            WriterTools(
                cache=cache,
                member_events=member_events,
                events=events,
                committer=committer,
                listening=stream.listeners,
                signer=Signer("localhost", SigningKey.from_seed("ed25519:test", bytes(32))),
                now=clock or (lambda: next(ticks)),
                policy_servers=policy_servers or NoPolicyServers(),
                later=reactor.callLater,
            )
        )
        gate = RoomGate(
            cache=cache,
            user_rooms=user_rooms,
            memberships=memberships,
            events=events,
            state=StateStore(database),
            member_events=member_events,
        )
        return cls(database, stream, committer, engine, cache, member_events, gate, user_rooms, events)

    async def new_room(
        self,
        creator: str = ALICE,
        *,
        version: str = "11",
        join_rule: str = "public",
        visibility: str = "shared",
        more: Sequence[Draft] = (),
    ) -> Room:
        """A room with its creator joined, open to all unless told otherwise."""
        rules = room_version(version)
        create_content: dict[str, Any] = {"room_version": version}
        if rules.create_has_creator:
            create_content["creator"] = creator
        users = {} if rules.privileged_creators else {creator: 100}

        def plan(_head: RoomHead) -> list[Draft]:
            return [
                member(creator, "join"),
                Draft("m.room.power_levels", creator, {"users": users}, ""),
                Draft("m.room.join_rules", creator, {"join_rule": join_rule}, ""),
                Draft("m.room.history_visibility", creator, {"history_visibility": visibility}, ""),
                *more,
            ]

        room = await self.engine.create(rules, Draft("m.room.create", creator, create_content, ""), plan)
        assert room is not None
        return room

    async def join(self, room_id: str, *users: str) -> None:
        """Join users to a public room, one after the other."""
        for user in users:
            await self.engine.write(room_id, lambda _head, user=user: [member(user, "join")], users=(user,))  # type: ignore[misc]

    async def send(self, room_id: str, sender: str, body: str) -> str:
        """Send a message; its event id."""
        written = await self.engine.write(room_id, lambda _head: [message(sender, body)], users=(sender,))
        return written.event_id


async def heard(here: Engine, there: Engine) -> None:
    """Let the reactor turn until both show what is committed: also a process that wrote does so later, where it has not
    heard yet of what another wrote before. It is `there` that asks the database.
    """
    position = await StreamStore(there.database, "test").position()
    while min(here.stream.position, there.stream.position) < position:
        await deferLater(reactor, 0)


async def _pause(seconds: float) -> None:
    await deferLater(reactor, seconds)


def member(user: str, membership: str, sender: str | None = None, **content: Any) -> Draft:
    """A draft of a membership."""
    return Draft("m.room.member", sender or user, {"membership": membership, **content}, user)


def message(sender: str, body: str) -> Draft:
    """A draft of a text message."""
    return Draft("m.room.message", sender, {"msgtype": "m.text", "body": body})
