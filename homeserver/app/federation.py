# SPDX-License-Identifier: Apache-2.0
"""Federation put together: what asks other servers, before the services; what answers them, after.

Nothing asks, answers or sends before `start`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater

from federation.authentication import RequestAuthentication
from federation.client.calls import FederationCalls
from federation.destinations import Availability
from federation.devices.announcing import DeviceAnnouncer
from federation.devices.introducing import Introductions
from federation.devices.lists import RemoteLists
from federation.devices.messages import FederatedDevices
from federation.devices.remote_keys import FederatedKeys
from federation.edus.device_list_update import DeviceListEdus
from federation.edus.direct_to_device import DirectToDeviceEdus
from federation.edus.presence import PresenceEdus
from federation.edus.receipts import ReceiptEdus
from federation.edus.signing_key_update import SigningKeyEdus
from federation.edus.typing import TypingEdus
from federation.history.assembly import build_remote_history
from federation.history.remote_history import RemoteHistory
from federation.inbound.assembly import Inbound, new_fetcher
from federation.inbound.budgets import OriginCosts
from federation.inbound.missing import EventFetcher
from federation.inbound.reading import PduReader
from federation.inbound.strays import EndsOfInvitations
from federation.keys.endpoints import KeyEndpoints
from federation.keys.keyring import Keyring
from federation.keys.notary import Notary
from federation.keys.own import OwnKeys, configured_old_keys
from federation.media.fetching import FederatedMedia
from federation.membership.assembly import RemoteMembership
from federation.outbound.building import Outbound, build_outbound
from federation.queries.directories import FederatedDirectories
from federation.queries.openid import FederatedOpenId
from federation.queries.profiles import FederatedProfiles
from federation.queries.spaces import FederatedSummaries
from federation.serving.devices import DeviceServing
from federation.serving.exchange_third_party_invite import ExchangeThirdPartyInvite
from federation.serving.invite import ReceiveInvite
from federation.serving.invitees import Invitees
from federation.serving.join_answers import JoinAnswers
from federation.serving.make_join import MakeJoin
from federation.serving.make_knock import MakeKnock
from federation.serving.make_leave import MakeLeave
from federation.serving.media import MediaServing
from federation.serving.reading import reading_routes
from federation.serving.restricted_joins import RestrictedJoins
from federation.serving.send import SendEndpoint
from federation.serving.send_join import SendJoin
from federation.serving.send_knock import SendKnock
from federation.serving.send_leave import SendLeave
from federation.serving.templates import Templates
from federation.serving.threepid_onbind import ThreepidOnBind
from homeserver.account_data.invite_permissions import InvitePermissions
from homeserver.app.core import Core, now_ms
from homeserver.app.elsewhere import Elsewhere, device_ground
from homeserver.app.reach import Reach
from homeserver.app.services import Services
from homeserver.app.shares import KEY_BYTES, shares_of
from homeserver.config import Config, StartRefused
from homeserver.devices.services import build_stored_keys
from homeserver.protocol.signing import SigningKey
from homeserver.receipts.remote import RemoteReceipts
from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.intake.knowledge import States
from homeserver.rooms.intake.loose_ends import LooseEnds
from homeserver.rooms.intake.room_intake import RoomIntake
from homeserver.rooms.neighbours import Neighbours
from homeserver.rooms.server_access import ServerGate
from homeserver.web.bucket_table import BucketTable
from homeserver.web.routing import Route
from storage.arrivals import ArrivalStore
from storage.cross_signing import CrossSigningStore
from storage.device_lists import DeviceListStore, RemoteDeviceListStore
from storage.notifications import NotificationStore
from storage.pdus import PduStore
from storage.receipts import ReceiptStore
from storage.received import ReceivedStore
from storage.room_history import RoomHistoryStore
from storage.room_hosts import RoomHostStore
from storage.server_keys import ServerKeyStore
from storage.server_memberships import ServerMembershipStore
from storage.state import StateStore

logger = logging.getLogger(__name__)


class Links(Struct, frozen=True, kw_only=True):
    """What asks other servers, and what takes up their answers. Built before the services."""

    availability: Availability
    own_keys: OwnKeys
    key_store: ServerKeyStore
    keyring: Keyring
    calls: FederationCalls
    signer: Signer
    reader: PduReader
    intake: RoomIntake
    fetcher: EventFetcher
    membership: RemoteMembership
    outbound: Outbound
    announcer: DeviceAnnouncer
    introductions: Introductions
    device_lists: RemoteLists
    history: RemoteHistory
    loose_ends: LooseEnds
    elsewhere: Elsewhere
    """For the services."""
    cache_sizes: Mapping[str, Callable[[], int]]
    """As of `Services`."""


async def build_links(
    reactor: Any, config: Config, core: Core, signing_key: SigningKey, reach: Reach
) -> Links:
    """Build them. Raises StartRefused for keys that cannot be used."""
    calls, availability = reach.calls, reach.availability
    own_keys = _own_keys(config, signing_key)
    key_store = ServerKeyStore(core.database)
    shares = shares_of(config.memory_budget)
    keyring = Keyring(
        own=own_keys,
        store=key_store,
        wire=reach.wire,
        notaries=config.federation.notaries,
        now=now_ms,
        most_known=shares.keys,
    )
    pause = _pause(reactor)
    signer = Signer(config.server_name, signing_key)
    reader = PduReader(keyring, breathe=pause)
    intake = _build_intake(core, pause)
    fetcher = new_fetcher(reactor, database=core.database, calls=calls, reader=reader, intake=intake)
    neighbours = Neighbours(
        server_name=config.server_name,
        cache=core.cache,
        user_rooms=core.user_rooms,
        hosts=RoomHostStore(core.database),
    )
    outbound = build_outbound(
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
        alone=config.database.url is None and config.workers == 1,
        most_bytes=shares.outbound,
    )
    announcer = DeviceAnnouncer(
        reactor,
        database=core.database,
        store=DeviceListStore(core.database),
        keys=build_stored_keys(core.database, config.server_name),
        neighbours=neighbours,
        outbox=outbound.outbox,
    )
    introductions = Introductions(
        server_name=config.server_name, rooms=core.cache, neighbours=neighbours, announcer=announcer
    )
    core.stream.subscribe(introductions)
    membership = RemoteMembership.build(
        reactor,
        core,
        intake=intake,
        calls=calls,
        reader=reader,
        fetcher=fetcher,
        signer=signer,
        acquaint=lambda server: keyring.keys_for([server]),
        entered=introductions.entered,
        notify=core.telling.notify_all,
        others=core.hearing,
        now=now_ms,
        pause=pause,
    )
    ground = device_ground(config, core, announcer)
    device_lists = RemoteLists(
        reactor,
        database=core.database,
        store=RemoteDeviceListStore(core.database, config.server_name),
        cross_signing=CrossSigningStore(core.database),
        calls=calls,
        user_rooms=core.user_rooms,
        changes=ground.lists,
        now=now_ms,
    )
    history = build_remote_history(
        reactor,
        database=core.database,
        calls=calls,
        reader=reader,
        fetcher=fetcher,
        intake=intake,
        availability=availability,
        whole=core.whole,
        server_name=config.server_name,
    )
    loose_ends = LooseEnds(engine=core.engine, cache=core.cache, scheduler=reactor)
    core.stream.subscribe(loose_ends)
    answers = 2 * shares.answers // 5
    directories = FederatedDirectories(calls=calls, clock=reactor.seconds, budget=answers)
    summaries = FederatedSummaries(reactor, server_name=config.server_name, calls=calls, budget=answers)
    profiles = FederatedProfiles(calls=calls, clock=reactor.seconds, budget=answers // 2)
    return Links(
        availability=availability,
        own_keys=own_keys,
        key_store=key_store,
        keyring=keyring,
        calls=calls,
        signer=signer,
        reader=reader,
        intake=intake,
        fetcher=fetcher,
        membership=membership,
        outbound=outbound,
        announcer=announcer,
        introductions=introductions,
        device_lists=device_lists,
        history=history,
        loose_ends=loose_ends,
        elsewhere=Elsewhere(
            rooms=membership.rooms,
            directories=directories,
            summaries=summaries,
            profiles=profiles,
            history=history,
            typing=outbound.elsewhere,
            receipts=outbound.elsewhere,
            presence=outbound.elsewhere,
            device_ground=ground,
            keys=FederatedKeys(reactor, calls=calls, lists=device_lists),
            devices=FederatedDevices(outbound.outbox),
            media=FederatedMedia(
                server_name=config.server_name,
                signing_key=signing_key,
                wire=reach.wire,
                http=reach.http,
                availability=availability,
                max_size=int(config.media.max_upload_size),
            ),
            openid=FederatedOpenId(calls=calls),
        ),
        cache_sizes={
            "keys": lambda: keyring.size * KEY_BYTES,
            "outbound": lambda: outbound.sender.weight,
            "answers": lambda: directories.weight + summaries.weight + profiles.weight,
        },
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
        received=ReceivedStore(core.database, core.origin),
        states=states,
        outliers=Outliers(store=store, events=core.events, pause=pause),
        stubs=store,
    )


class Federation(Struct, frozen=True, kw_only=True):
    """What answers other servers and sends to them. Built after the services."""

    links: Links
    inbound: Inbound
    authentication: RequestAuthentication
    routes: list[Route]

    async def start(self) -> None:
        """Take up what waits to be sent, filled and worked on."""
        await self.links.outbound.start()
        self.links.announcer.start()
        self.links.device_lists.start()
        await self.links.membership.start()
        self.inbound.start()

    async def stop(self) -> None:
        """End it; the services have ended, and the database is still there. A part that fails to end keeps no other
        from it.
        """
        links = self.links
        for part in (
            self.inbound,
            links.loose_ends,
            links.history,
            links.membership,
            links.device_lists,
            links.introductions,
            links.announcer,
            links.outbound,
            links.availability,
        ):
            try:
                await part.stop()
            except CancelledError:
                raise  # there is no more time
            except Exception:
                logger.exception("a part of federation did not end well")


def build_federation(
    reactor: Any,
    config: Config,
    core: Core,
    links: Links,
    services: Services,
    *,
    limits_of_all: BucketTable | None,
) -> Federation:
    """Build it. `limits_of_all`: where several processes count what servers cost."""
    memory = None if limits_of_all is None else limits_of_all.of_class("server_costs")
    costs = OriginCosts(time.monotonic, memory=memory)
    inbound = _build_inbound(reactor, config, core, links, services, costs=costs)
    links.availability.watch(inbound.backlog.reachable)
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
            *reading_routes(
                server_name=config.server_name,
                database=core.database,
                cache=core.cache,
                gate=gate,
                profiles=services.data.profiles,
                aliases=services.rooms.aliases,
                directory=services.rooms.directory,
                now=now_ms,
                breathe=_pause(reactor),
            ),
            *MediaServing(services.media).routes(),
            *DeviceServing(
                server_name=config.server_name,
                stored=services.devices.stored_keys,
                claim=services.devices.claim,
            ).routes(),
        ],
    )


def _build_inbound(
    reactor: Any, config: Config, core: Core, links: Links, services: Services, *, costs: OriginCosts
) -> Inbound:
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
        arrivals=links.membership.joining,
        strays=EndsOfInvitations(
            cache=core.cache, events=core.events, doorway=links.membership.out_of_band, server_name=name
        ),
        costs=costs,
        edu_handlers={
            "m.typing": TypingEdus(server_name=name, rooms=core.cache, typing=data.typing).receive,
            "m.receipt": ReceiptEdus(server_name=name, rooms=core.cache, receipts=receipts).receive,
            "m.presence": PresenceEdus(presence=data.presence).receive,
            "m.direct_to_device": DirectToDeviceEdus(services.devices.to_device).receive,
            "m.device_list_update": DeviceListEdus(links.device_lists).receive,
            "m.signing_key_update": SigningKeyEdus(links.device_lists).receive,
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
            out_of_band=links.membership.out_of_band,
            invitees=invitees,
        ),
        ExchangeThirdPartyInvite(server_name=name, gate=gate, inviting=links.membership.rooms),
        ThreepidOnBind(
            server_name=name,
            cache=core.cache,
            intake=links.intake,
            exchanging=links.calls,
            invitees=invitees,
        ),
    )
    return [route for endpoint in endpoints for route in endpoint.routes()]
