# SPDX-License-Identifier: Apache-2.0
"""Our side of membership in other servers' rooms, put together in the order of its needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from federation.client.calls import FederationCalls
from federation.membership.filling import PartialFiller
from federation.membership.inviting import InviteIntake, MemberReader, RemoteInviting
from federation.membership.joining import Reader, RemoteJoining
from federation.membership.joins_elsewhere import CHANNEL, JoinsElsewhere, Notify, Others
from federation.membership.knocking import RemoteKnocking
from federation.membership.leaving import RemoteLeaving
from federation.membership.remote import FederatedRooms
from federation.membership.templates import Templates
from federation.membership.whole_state import StateFetcher, WholeState
from homeserver.needs import Protocol
from homeserver.rooms.arrival import OutOfBand, RoomArrival, RoomCompletion
from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.engine.working import Signer
from homeserver.stream import Committer, Stream
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.events import EventStore
from storage.memberships import MembershipStore
from storage.partial_rooms import PartialRoomStore


class Rooms(Protocol):
    """What of the process's rooms is used; `homeserver.app.core.Core` has it."""

    @property
    def database(self) -> Database: ...
    @property
    def stream(self) -> Stream: ...
    @property
    def committer(self) -> Committer: ...
    @property
    def cache(self) -> RoomCache: ...
    @property
    def events(self) -> EventStore: ...
    @property
    def gate(self) -> MemberReader: ...


class RemoteMembership(Struct, frozen=True):
    """Built by `build`; `start` it when all is built, `stop` it before what it stands on."""

    rooms: FederatedRooms
    """For the room services."""
    joining: RemoteJoining
    """For who must wait for joins and knocks under way."""
    out_of_band: OutOfBand
    """For invites of other servers, and their end."""
    filler: PartialFiller
    _elsewhere: JoinsElsewhere
    _database: Database

    async def start(self) -> None:
        """Hear what other processes join, and begin to fill rooms that were entered by a short answer."""
        await self._database.listen(CHANNEL, self._elsewhere.heard, self._elsewhere.missed)
        await self._elsewhere.ask()
        self.filler.start()

    async def stop(self) -> None:
        """End it; nothing is lost."""
        self._elsewhere.stop()
        await self.filler.stop()

    @classmethod
    def build(
        cls,
        reactor: Any,
        core: Rooms,
        *,
        intake: InviteIntake,
        calls: FederationCalls,
        reader: Reader,
        fetcher: StateFetcher,
        signer: Signer,
        acquaint: Callable[[str], Awaitable[object]],
        entered: Callable[[str, int], None],
        notify: Notify,
        others: Others,
        now: Callable[[], int],
        pause: Callable[[], Awaitable[None]],
    ) -> RemoteMembership:
        """`acquaint` and `entered`: see `RemoteJoining`; `notify` and `others`: see `JoinsElsewhere`; `now`:
        milliseconds since 1970; `pause` lets others have the reactor.
        """
        name, store = signer.server_name, ArrivalStore(core.database)
        partial, templates = PartialRoomStore(core.database), Templates(signer=signer, now=now)
        completion = RoomCompletion(
            cache=core.cache,
            stream=core.stream,
            committer=core.committer,
            store=store,
            partial=partial,
            events=core.events,
            server_name=name,
            pause=pause,
        )
        filler = PartialFiller(
            partial=partial,
            state=WholeState(
                calls=calls,
                reader=reader,
                outliers=Outliers(store=store, events=core.events, pause=pause),
                fetcher=fetcher,
            ),
            completion=completion,
            cache=core.cache,
            server_name=name,
            scheduler=reactor,
        )
        arrival = RoomArrival(
            cache=core.cache,
            stream=core.stream,
            committer=core.committer,
            store=store,
            events=core.events,
            intake=intake,
            server_name=name,
            pause=pause,
        )
        out_of_band = OutOfBand(
            cache=core.cache,
            stream=core.stream,
            committer=core.committer,
            store=store,
            events=core.events,
            memberships=MembershipStore(core.database),
            signer=signer,
            now=now,
        )
        elsewhere = JoinsElsewhere(origin=core.stream.origin, notify=notify, others=others, scheduler=reactor)
        joining = RemoteJoining(
            calls=calls,
            reader=reader,
            arrival=arrival,
            templates=templates,
            elsewhere=elsewhere,
            server_name=name,
            acquaint=acquaint,
            clock=reactor.seconds,
            entered=entered,
            entered_in_part=filler.wake,
        )
        knocking = RemoteKnocking(
            calls=calls,
            out_of_band=out_of_band,
            templates=templates,
            elsewhere=elsewhere,
            server_name=name,
        )
        leaving = RemoteLeaving(
            calls=calls, out_of_band=out_of_band, templates=templates, server_name=name, scheduler=reactor
        )
        inviting = RemoteInviting(calls=calls, intake=intake, cache=core.cache, members=core.gate)
        rooms = FederatedRooms(
            joining=joining, knocking=knocking, leaving=leaving, inviting=inviting, calls=calls
        )
        return cls(rooms, joining, out_of_band, filler, elsewhere, core.database)
