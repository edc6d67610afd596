# SPDX-License-Identifier: Apache-2.0
"""What every service stands on: the database, the stream and the rooms. Built first, stopped last."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.app.shares import shares_of
from homeserver.config import Config
from homeserver.protocol.signing import SigningKey
from homeserver.rooms.access import RoomGate
from homeserver.rooms.engine import RoomCache, RoomEngine
from homeserver.rooms.engine.head import host_of
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.recommending import PolicyServers
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.engine.writer import WriterTools
from homeserver.rooms.user_rooms import UserRooms
from homeserver.rooms.whole_rooms import WholeRooms
from homeserver.siblings import Neighbourhood, NoSiblings
from homeserver.stream import Committer, Recovery, Stream
from homeserver.stream.company import OtherCompanies
from homeserver.stream.hearing import CHANNEL as TOLD
from homeserver.stream.hearing import Hearing
from homeserver.stream.telling import Telling
from storage.database import Database
from storage.events import EventStore
from storage.memberships import MembershipStore
from storage.notifications import NotificationStore
from storage.rooms import RoomStore
from storage.server_processes import CHANNEL as PROCESSES
from storage.server_processes import ServerProcessStore
from storage.state import StateStore
from storage.stream import PARTS, StreamStore
from storage.work_turns import WorkTurnStore


class Core(Struct, frozen=True, kw_only=True):
    """One per process."""

    origin: str
    """Names this process to the others."""
    database: Database
    stream: Stream
    stream_store: StreamStore
    hearing: Hearing
    telling: Telling
    companies: OtherCompanies
    turns: WorkTurnStore
    """Whose turn recurring work is."""
    committer: Committer
    engine: RoomEngine
    cache: RoomCache
    member_events: MemberEvents
    gate: RoomGate
    user_rooms: UserRooms
    events: EventStore
    memberships: MembershipStore
    rooms: RoomStore
    state: StateStore
    whole: WholeRooms
    """Rooms whose members are all known."""

    async def stop(self) -> None:
        """Let what is being committed land, then end the connections."""
        await self.committer.wait_idle()
        await self.companies.stop()
        await self.database.close()


def now_ms() -> int:
    """Milliseconds since 1970, as events carry them."""
    return int(time.time() * 1000)


class Ground(Struct, frozen=True):
    """The database, before anything knows what is in it."""

    database: Database
    origin: str
    """Names this process to the others."""
    siblings: Neighbourhood
    """The other processes of this server on this machine."""

    @classmethod
    def open(cls, reactor: Any, dsn: str, siblings: Neighbourhood | None = None) -> Ground:
        """It connects when it is first asked something. Without `siblings` the process has none."""
        return cls(
            Database(reactor, dsn), secrets.token_hex(8), NoSiblings() if siblings is None else siblings
        )


async def build_core(
    reactor: Any, config: Config, ground: Ground, signing_key: SigningKey, policy_servers: PolicyServers
) -> Core:
    """Connect and build. The stream is heard from the first moment, so that nothing falls between."""
    database, origin = ground.database, ground.origin
    siblings = ground.siblings
    stream_store = StreamStore(database, origin, siblings=len(siblings.told) > 1)
    stream = Stream(origin=origin, position=await stream_store.position(), siblings=siblings)

    def sleep(seconds: float) -> Awaitable[None]:
        return deferLater(reactor, seconds)

    recovery = Recovery(stream_store, stream, sleep)

    def catch_up() -> None:
        Deferred.fromCoroutine(recovery.catch_up())

    async def read_up() -> None:
        await recovery.resync()
        database.interrupted()

    processes = ServerProcessStore(database, origin=origin, company=siblings.name or origin)
    notifications = NotificationStore(database)
    hearing = Hearing(
        reactor=reactor,
        stream=stream,
        siblings=siblings,
        read_up=read_up,
        look=processes.look,
        hear=database.hear,
    )
    companies = OtherCompanies(
        reactor=reactor,
        store=processes,
        notify=notifications.notify_all,
        origin=origin,
        company=siblings.name or origin,
        found=hearing.found_elsewhere,
        learn=hearing.learn,
        forgotten=catch_up,
    )
    await database.listen("stream", stream.heard, catch_up)
    await database.listen(PARTS, stream.heard_part)  # second: a whole without its parts is seen to be one
    await database.listen(TOLD, hearing.heard, hearing.listening)
    hearing.listening()
    await database.listen(PROCESSES, companies.heard)
    if config.database.url is not None:  # nobody else has the server's own database
        await companies.start()
    position = await stream_store.settled_position()
    if position > stream.position:  # another process wrote between the first look and the listening
        stream.missed(position)

    events, memberships = EventStore(database), MembershipStore(database)
    rooms, state = RoomStore(database), StateStore(database)
    shares = shares_of(config.memory_budget)
    member_events = MemberEvents(events, shares.member_events)
    cache = RoomCache(rooms, member_events, shares.rooms, stream.listeners)
    user_rooms = UserRooms(
        memberships,
        is_ours=lambda user_id: host_of(user_id) == config.server_name,
        capacity=shares.standings,
    )
    stream.subscribe(member_events)
    stream.subscribe(cache)
    stream.subscribe(user_rooms)
    whole = WholeRooms(cache, reactor)
    stream.subscribe(whole)
    committer = Committer(stream_store, stream, recovery, others=hearing, later=reactor.callLater)
    engine = RoomEngine(
        WriterTools(
            cache=cache,
            member_events=member_events,
            events=events,
            committer=committer,
            listening=stream.listeners,
            signer=Signer(config.server_name, signing_key),
            now=now_ms,
            policy_servers=policy_servers,
            later=reactor.callLater,
        )
    )
    gate = RoomGate(
        cache=cache,
        user_rooms=user_rooms,
        memberships=memberships,
        events=events,
        state=state,
        member_events=member_events,
        budget=shares.pasts,
    )
    return Core(
        origin=origin,
        database=database,
        stream=stream,
        stream_store=stream_store,
        hearing=hearing,
        telling=Telling(notifications, siblings, origin=origin, others=hearing, elsewhere=processes),
        companies=companies,
        turns=WorkTurnStore(database, siblings.name or origin, siblings.number),
        committer=committer,
        engine=engine,
        cache=cache,
        member_events=member_events,
        gate=gate,
        user_rooms=user_rooms,
        events=events,
        memberships=memberships,
        rooms=rooms,
        state=state,
        whole=whole,
    )
