# SPDX-License-Identifier: Apache-2.0
"""Federation put together: what asks other servers, before the services; what answers them, after.

Nothing asks, answers or sends before `start`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import REGISTRY
from twisted.internet.task import deferLater

from federation.authentication import RequestAuthentication
from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.http_wire import HttpWire
from federation.client.metrics import ClientMetrics
from federation.destinations import Availability
from federation.discovery import make_discovery
from federation.edus.presence import PresenceEdus
from federation.edus.receipts import ReceiptEdus
from federation.edus.typing import TypingEdus
from federation.inbound.assembly import Inbound, new_fetcher
from federation.inbound.missing import EventFetcher
from federation.inbound.reading import PduReader
from federation.inbound.strays import EndsOfInvitations
from federation.keys.endpoints import KeyEndpoints
from federation.keys.keyring import Keyring
from federation.keys.notary import Notary
from federation.keys.own import OwnKeys, configured_old_keys
from federation.membership.filling import PartialFiller
from federation.membership.inviting import RemoteInviting
from federation.membership.joining import RemoteJoining
from federation.membership.knocking import RemoteKnocking
from federation.membership.leaving import RemoteLeaving
from federation.membership.remote import FederatedRooms
from federation.membership.templates import Templates as OwnTemplates
from federation.outbound.building import Outbound, build_outbound, start_availability
from federation.serving.exchange_third_party_invite import ExchangeThirdPartyInvite
from federation.serving.invite import ReceiveInvite
from federation.serving.invitees import Invitees
from federation.serving.join_answers import JoinAnswers
from federation.serving.make_join import MakeJoin
from federation.serving.make_knock import MakeKnock
from federation.serving.make_leave import MakeLeave
from federation.serving.restricted_joins import RestrictedJoins
from federation.serving.send import SendEndpoint
from federation.serving.send_join import SendJoin
from federation.serving.send_knock import SendKnock
from federation.serving.send_leave import SendLeave
from federation.serving.templates import Templates
from federation.serving.threepid_onbind import ThreepidOnBind
from homeserver.account_data.invite_permissions import InvitePermissions
from homeserver.app.core import Core, now_ms
from homeserver.app.elsewhere import Elsewhere
from homeserver.app.services import Services
from homeserver.config import Config, StartRefused
from homeserver.outgoing import OutgoingClient, make_client
from homeserver.protocol.signing import SigningKey
from homeserver.receipts.remote import RemoteReceipts
from homeserver.rooms.arrival import OutOfBand, RoomArrival, RoomCompletion
from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.intake.knowledge import States
from homeserver.rooms.intake.room_intake import RoomIntake
from homeserver.rooms.neighbours import Neighbours
from homeserver.rooms.server_access import ServerGate
from homeserver.web.routing import Route
from storage.arrivals import ArrivalStore
from storage.notifications import NotificationStore
from storage.partial_rooms import PartialRoomStore
from storage.pdus import PduStore
from storage.receipts import ReceiptStore
from storage.received import ReceivedStore
from storage.room_history import RoomHistoryStore
from storage.room_hosts import RoomHostStore
from storage.server_keys import ServerKeyStore
from storage.server_memberships import ServerMembershipStore
from storage.state import StateStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What asks other servers, and what takes up their answers. Built before the services."""

    http: OutgoingClient
    availability: Availability
    own_keys: OwnKeys
    key_store: ServerKeyStore
    keyring: Keyring
    calls: FederationCalls
    signer: Signer
    reader: PduReader
    intake: RoomIntake
    fetcher: EventFetcher
    out_of_band: OutOfBand
    joining: RemoteJoining
    rooms: FederatedRooms
    filler: PartialFiller
    neighbours: Neighbours
    outbound: Outbound

    def elsewhere(self) -> Elsewhere:
        """For the services."""
        said = self.outbound.elsewhere
        return Elsewhere(rooms=self.rooms, typing=said, receipts=said, presence=said)


async def build_links(reactor: Any, config: Config, core: Core, signing_key: SigningKey) -> Links:
    """Build them. Raises StartRefused for keys or authorities that cannot be used."""
    http = make_client(reactor, config.federation)
    REGISTRY.register(http.metrics)
    wire = HttpWire(reactor, discovery=make_discovery(reactor, http), http=http)
    own_keys = _own_keys(config, signing_key)
    key_store = ServerKeyStore(core.database)
    keyring = Keyring(
        own=own_keys, store=key_store, wire=wire, notaries=config.federation.notaries, now=now_ms
    )
    availability = await start_availability(reactor, core.database, origin=core.origin, now=now_ms)
    metrics = ClientMetrics()
    REGISTRY.register(metrics)
    calls = FederationCalls(
        FederationClient(
            server_name=config.server_name,
            signing_key=signing_key,
            wire=wire,
            availability=availability,
            metrics=metrics,
        )
    )
    pause = _pause(reactor)
    signer = Signer(config.server_name, signing_key)
    reader = PduReader(keyring, breathe=pause)
    intake = _build_intake(core, pause)
    fetcher = new_fetcher(reactor, database=core.database, calls=calls, reader=reader, intake=intake)
    out_of_band = OutOfBand(
        cache=core.cache,
        stream=core.stream,
        committer=core.committer,
        store=ArrivalStore(core.database),
        events=core.events,
        memberships=core.memberships,
        signer=signer,
        now=now_ms,
    )
    filler = _build_filler(reactor, config, core, fetcher, pause)
    joining = RemoteJoining(
        calls=calls,
        reader=reader,
        arrival=RoomArrival(
            cache=core.cache,
            stream=core.stream,
            committer=core.committer,
            store=ArrivalStore(core.database),
            events=core.events,
            intake=intake,
            server_name=config.server_name,
            pause=pause,
        ),
        templates=OwnTemplates(signer=signer, now=now_ms),
        server_name=config.server_name,
        clock=reactor.seconds,
        entered_in_part=filler.wake,
    )
    neighbours = Neighbours(
        server_name=config.server_name,
        cache=core.cache,
        user_rooms=core.user_rooms,
        hosts=RoomHostStore(core.database),
    )
    return Links(
        http=http,
        availability=availability,
        own_keys=own_keys,
        key_store=key_store,
        keyring=keyring,
        calls=calls,
        signer=signer,
        reader=reader,
        intake=intake,
        fetcher=fetcher,
        out_of_band=out_of_band,
        joining=joining,
        rooms=_build_rooms(
            reactor,
            config,
            core,
            calls=calls,
            signer=signer,
            out_of_band=out_of_band,
            joining=joining,
            intake=intake,
        ),
        filler=filler,
        neighbours=neighbours,
        outbound=build_outbound(
            reactor,
            server_name=config.server_name,
            origin=core.origin,
            database=core.database,
            stream=core.stream,
            cache=core.cache,
            neighbours=neighbours,
            transactions=calls,
            availability=availability,
            notify=NotificationStore(core.database).notify_all,
            pause=pause,
            now=now_ms,
            alone=config.database.url is None,
        ),
    )


def _own_keys(config: Config, signing_key: SigningKey) -> OwnKeys:
    try:
        return OwnKeys(
            server_name=config.server_name,
            signing_key=signing_key,
            old_keys=configured_old_keys(config.federation),
            now=now_ms,
        )
    except ValueError as error:
        raise StartRefused(f"the keys of federation.old_keys cannot be used: {error}") from error


def _pause(reactor: Any) -> Callable[[], Awaitable[None]]:
    def pause() -> Awaitable[None]:
        return deferLater(reactor, 0)

    return pause


def _build_intake(core: Core, pause: Callable[[], Awaitable[None]]) -> RoomIntake:
    states, store = States(RoomHistoryStore(core.database)), ArrivalStore(core.database)
    core.stream.subscribe(states)
    return RoomIntake(
        engine=core.engine,
        events=core.events,
        received=ReceivedStore(core.database),
        states=states,
        outliers=Outliers(store=store, events=core.events, pause=pause),
        stubs=store,
    )


def _build_filler(
    reactor: Any, config: Config, core: Core, fetcher: EventFetcher, pause: Callable[[], Awaitable[None]]
) -> PartialFiller:
    partial = PartialRoomStore(core.database)
    return PartialFiller(
        partial=partial,
        fetcher=fetcher,
        completion=RoomCompletion(
            cache=core.cache,
            stream=core.stream,
            committer=core.committer,
            store=ArrivalStore(core.database),
            partial=partial,
            events=core.events,
            server_name=config.server_name,
            pause=pause,
        ),
        cache=core.cache,
        server_name=config.server_name,
        scheduler=reactor,
    )


def _build_rooms(
    reactor: Any,
    config: Config,
    core: Core,
    *,
    calls: FederationCalls,
    signer: Signer,
    out_of_band: OutOfBand,
    joining: RemoteJoining,
    intake: RoomIntake,
) -> FederatedRooms:
    templates = OwnTemplates(signer=signer, now=now_ms)
    return FederatedRooms(
        joining=joining,
        knocking=RemoteKnocking(
            calls=calls, out_of_band=out_of_band, templates=templates, server_name=config.server_name
        ),
        leaving=RemoteLeaving(
            calls=calls,
            out_of_band=out_of_band,
            templates=templates,
            server_name=config.server_name,
            scheduler=reactor,
        ),
        inviting=RemoteInviting(calls=calls, intake=intake, cache=core.cache, members=core.gate),
        calls=calls,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What answers other servers and sends to them. Built after the services."""

    links: Links
    inbound: Inbound
    authentication: RequestAuthentication
    routes: list[Route]

    async def start(self) -> None:
        """Take up what waits to be sent, filled and worked on."""
        await self.links.outbound.start()
        self.links.filler.start()
        self.inbound.start()

    async def stop(self) -> None:
        """End it; the services have ended, and the database is still there."""
        await self.inbound.stop()
        await self.links.filler.stop()
        await self.links.outbound.stop()
        await self.links.availability.stop()
        self.links.http.close()


def build_federation(
    reactor: Any, config: Config, core: Core, links: Links, services: Services
) -> Federation:
    """Build it."""
    inbound = _build_inbound(reactor, config, core, links, services)
    notary = Notary(own=links.own_keys, keyring=links.keyring, store=links.key_store, now=now_ms)
    gate = ServerGate(
        server_name=config.server_name,
        cache=core.cache,
        events=core.events,
        memberships=ServerMembershipStore(core.database),
        history=RoomHistoryStore(core.database),
    )
    return Federation(
        links=links,
        inbound=inbound,
        authentication=RequestAuthentication(
            server_name=config.server_name,
            keys=links.keyring,
            limits=services.limits,
            heard=links.availability.spoke,
        ),
        routes=[
            *KeyEndpoints(own=links.own_keys, notary=notary, limits=services.limits).routes(),
            *SendEndpoint(inbound.transactions).routes(),
            *_membership_routes(config, core, links, services, gate),
        ],
    )


def _build_inbound(reactor: Any, config: Config, core: Core, links: Links, services: Services) -> Inbound:
    name, data = config.server_name, services.data
    receipts = RemoteReceipts(
        receipts=data.receipts, events=core.events, store=ReceiptStore(core.database), now=now_ms
    )
    return Inbound.build(
        reactor,
        database=core.database,
        rooms=core.cache,
        intake=links.intake,
        reader=links.reader,
        fetcher=links.fetcher,
        arrivals=links.joining,
        strays=EndsOfInvitations(
            cache=core.cache, events=core.events, doorway=links.out_of_band, server_name=name
        ),
        edu_handlers={
            "m.typing": TypingEdus(server_name=name, rooms=core.cache, typing=data.typing).receive,
            "m.receipt": ReceiptEdus(server_name=name, rooms=core.cache, receipts=receipts).receive,
            "m.presence": PresenceEdus(presence=data.presence).receive,
        },
        server_name=name,
        worker=core.origin,
    )


def _membership_routes(
    config: Config, core: Core, links: Links, services: Services, gate: ServerGate
) -> list[Route]:
    name, database = config.server_name, core.database
    invitees = Invitees(
        server_name=name,
        users=services.users,
        ignoring=services.data.account_data,
        permissions=InvitePermissions(services.data.account_data),
    )
    templates = Templates(server_name=name, gate=gate, intake=links.intake)
    restricted = RestrictedJoins(server_name=name, rooms=ServerMembershipStore(database))
    answers = JoinAnswers(
        server_name=name, events=core.events, state=StateStore(database), pdus=PduStore(database)
    )
    reader, intake = links.reader, links.intake
    endpoints = (
        MakeJoin(templates=templates, restricted=restricted),
        MakeLeave(templates=templates),
        MakeKnock(templates=templates),
        SendJoin(
            signer=links.signer,
            gate=gate,
            reader=reader,
            intake=intake,
            restricted=restricted,
            answers=answers,
        ),
        SendLeave(gate=gate, reader=reader, intake=intake),
        SendKnock(gate=gate, reader=reader, intake=intake),
        ReceiveInvite(
            signer=links.signer,
            cache=core.cache,
            gate=gate,
            reader=links.reader,
            keys=links.keyring,
            intake=links.intake,
            out_of_band=links.out_of_band,
            invitees=invitees,
        ),
        ExchangeThirdPartyInvite(server_name=name, gate=gate, inviting=links.rooms),
        ThreepidOnBind(
            server_name=name,
            cache=core.cache,
            intake=links.intake,
            exchanging=links.calls,
            invitees=invitees,
        ),
    )
    return [route for endpoint in endpoints for route in endpoint.routes()]
