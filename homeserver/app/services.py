# SPDX-License-Identifier: Apache-2.0
"""The services, built in the order of their needs. One place where every collaborator can be read off."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.account_data.invite_permissions import InvitePermissions
from homeserver.account_data.upgrades import CarryOver
from homeserver.accounts import Accounts, build_accounts
from homeserver.accounts.reauthentication import Reauthentication
from homeserver.app.calls import Calls, build_calls
from homeserver.app.core import Core, now_ms
from homeserver.app.elsewhere import Elsewhere
from homeserver.app.lives import Departures
from homeserver.app.shares import (
    DEVICE_BYTES,
    LEDGER_BYTES,
    PERSON_BYTES,
    RECEIPT_BYTES,
    SENT_BYTES,
    STANDING_BYTES,
    TOKEN_BYTES,
    shares_of,
)
from homeserver.app.user_data import UserData, build_user_data
from homeserver.clientapi.token_authenticator import GuessBrake, TokenAuthenticator
from homeserver.config import Config
from homeserver.devices.departure import KeyDeparture
from homeserver.devices.services import (
    DeviceServices,
    build_device_services,
)
from homeserver.media.services import MediaServices, build_media
from homeserver.outgoing import OutgoingClient
from homeserver.presence.service import CHANNEL as PRESENCE
from homeserver.push_rules import AccountDataWithRules
from homeserver.reports import Reports
from homeserver.rooms.delayed.events import DelayedDeparture
from homeserver.rooms.delayed.events import Limits as DelayLimits
from homeserver.rooms.delayed.services import DelayedServices, build_delayed_services
from homeserver.rooms.locating import LikelyServers
from homeserver.rooms.membership.departure import RoomDeparture
from homeserver.rooms.reading.services import ReadingServices, build_reading_services
from homeserver.rooms.services import RoomServices, build_room_services
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.sync.beside import Providers
from homeserver.sync.building import build_sync
from homeserver.sync.device_sections import DeviceListsSection, KeyCountsSection, ToDeviceSection
from homeserver.sync.foreign_wakes import ForeignWakes
from homeserver.sync.fragments import TimelineFragments
from homeserver.sync.lazy_members import SentMembers
from homeserver.sync.long_poll import LongPoll
from homeserver.sync.providers import Extension
from homeserver.sync.service import SyncService
from homeserver.sync.wanted_filters import WantedFilters
from homeserver.typing.service import CHANNEL as TYPING
from homeserver.web.authentication import Authenticator
from homeserver.web.bucket_table import BucketTable
from homeserver.web.limit_news import CHANNEL as LIMITS
from homeserver.web.limit_news import SharedLimits
from homeserver.web.rate_limits import RateLimits
from storage.cross_signing import CrossSigningStore
from storage.delayed_events import DelayedEventStore
from storage.gaps import GapStore
from storage.key_backups import KeyBackupStore
from storage.parents import ParentStore
from storage.published_rooms import PublishedRoomStore
from storage.receipts import CHANNEL as RECEIPTS
from storage.relations import RelationStore
from storage.reports import ReportStore
from storage.room_aliases import RoomAliasStore
from storage.room_history import RoomHistoryStore
from storage.timelines import TimelineStore
from storage.users import UserStore

logger = logging.getLogger(__name__)


class Services(Struct, frozen=True, kw_only=True):
    """What the endpoints call."""

    core: Core
    limits: RateLimits
    shared_limits: SharedLimits
    authenticator: Authenticator
    accounts: Accounts
    users: UserStore
    data: UserData
    rooms: RoomServices
    delayed: DelayedServices
    reading: ReadingServices
    reports: Reports
    devices: DeviceServices
    device_sections: Sequence[Extension]
    sync: SyncService
    long_poll: LongPoll
    wanted_filters: WantedFilters
    calls: Calls
    media: MediaServices
    cache_sizes: Mapping[str, Callable[[], int]]
    """By name, what gives the bytes that a cache takes."""

    async def start(self) -> None:
        """Hear the other processes, and begin what runs by itself."""
        database, data = self.core.database, self.data
        await database.listen(LIMITS, partial(self.shared_limits.heard, self.limits))
        await database.listen(TYPING, data.typing_news.heard, data.typing_news.missed)
        await database.listen(RECEIPTS, data.recent_receipts.heard)
        data.recent_receipts.listening_since(await self.core.stream_store.settled_position())
        await database.listen(
            PRESENCE,
            lambda payload: _run(data.presence.heard(payload)),
            lambda: _run(data.presence.missed()),
        )
        await data.presence.start()
        await self.devices.start()
        await self.accounts.start()
        self.delayed.timer.start()
        self.calls.start()
        await self.media.start(database)

    async def stop(self) -> None:
        """End it; the database is still there."""
        await self.calls.stop()
        await self.delayed.timer.stop()
        await self.media.stop()
        await self.devices.stop()
        await self.data.presence.stop()
        self.data.typing_news.stop()
        await self.accounts.stop()

    async def nobody_yet(self) -> bool:
        """Whether nobody has an account, guests aside."""
        return not await self.users.any()

    async def first_account_token(self) -> str | None:
        """A one-time registration token if nobody has an account yet and one is needed to get one."""
        return await self.accounts.gate.ensure_first_account_token()


def _key_departure(core: Core, elsewhere: Elsewhere) -> KeyDeparture:
    return KeyDeparture(
        database=core.database,
        cross_signing=CrossSigningStore(core.database),
        backups=KeyBackupStore(core.database),
        lists=elsewhere.device_ground.lists,
    )


def _run(work: Any) -> None:
    Deferred.fromCoroutine(work).addErrback(
        lambda failure: logger.warning("news of presence was not taken up", exc_info=failure.value)
    )


def build_services(
    reactor: Any,
    config: Config,
    core: Core,
    http: OutgoingClient,
    registration_secret: str,
    *,
    elsewhere: Elsewhere,
    limits_of_all: BucketTable | None,
) -> Services:
    """Build every service; nothing runs before `start`. `limits_of_all`: where several processes count requests."""
    remote = elsewhere.rooms
    shared_limits = SharedLimits(origin=core.origin, notify=core.telling.notify_all, others=core.hearing)
    limits = RateLimits(
        time.monotonic,
        enabled=config.rate_limits.enabled,
        taken=shared_limits.taken,
        memory=None if limits_of_all is None else limits_of_all.of_class,
    )
    clock = EphemeralClock(now_ms)

    def pause() -> Awaitable[None]:
        return deferLater(reactor, 0)

    likely = LikelyServers(engine=core.engine, user_rooms=core.user_rooms)
    departure = RoomDeparture(engine=core.engine, user_rooms=core.user_rooms, remote=remote, likely=likely)
    data = build_user_data(reactor, config, core, clock, pause=pause, elsewhere=elsewhere)
    shares = shares_of(config.memory_budget)
    accounts = build_accounts(
        reactor,
        config,
        core.database,
        registration_secret=registration_secret,
        arrivals=data.profiles,
        departures=Departures(
            departure,
            data.profiles,
            data.account_data,
            data.presence,
            _key_departure(core, elsewhere),
            DelayedDeparture(DelayedEventStore(core.database)),
        ),
        guesses=GuessBrake(limits),
        told=core.telling.told,
        my_turn=partial(core.turns.take, "accounts"),
        remembered_tokens=shares.tokens,
    )
    users, published = UserStore(core.database), PublishedRoomStore(core.database)
    relations, permissions = RelationStore(core.database), InvitePermissions(data.account_data)
    rooms = build_room_services(
        engine=core.engine,
        gate=core.gate,
        user_rooms=core.user_rooms,
        committer=core.committer,
        events=core.events,
        relations=relations,
        alias_store=RoomAliasStore(core.database),
        published=published,
        profiles=data.profiles,
        permissions=permissions,
        settings=CarryOver(data.account_data, data.push_rules),
        guests=users,
        accounts=users,
        publication=config.room_directory.publication,
        remote=remote,
        remote_directories=elsewhere.directories,
        remote_summaries=elsewhere.summaries,
        whole=core.whole,
        default_version=config.rooms.default_version,
        encrypted_by_default=config.rooms.encrypted_by_default,
        group_calls=config.rtc.livekit_url is not None,
        without_keys=frozenset() if config.echo_user_id is None else frozenset((config.echo_user_id,)),
    )
    delayed = build_delayed_services(
        reactor=reactor,
        store=DelayedEventStore(core.database),
        gate=core.gate,
        sending=rooms.sending,
        setting_state=rooms.setting_state,
        users=users,
        limits=DelayLimits(
            max_delay_ms=int(config.delayed_events.max_delay * 1000),
            max_scheduled=config.delayed_events.max_per_user,
        ),
    )
    reading = build_reading_services(
        clock=reactor,
        now=now_ms,
        pause=pause,
        stream=core.stream,
        gate=core.gate,
        cache=core.cache,
        user_rooms=core.user_rooms,
        events=core.events,
        timelines=TimelineStore(core.database),
        gaps=GapStore(core.database),
        history=RoomHistoryStore(core.database),
        relations=relations,
        parents=ParentStore(core.database),
        published=published,
        account_data=data.account_data,
        permissions=permissions,
        presence=data.presence,
        whole=core.whole,
        missing=elsewhere.history,
        budget=shares.timelines,
    )
    devices = build_device_services(
        elsewhere.device_ground,
        reactor=reactor,
        stream=core.stream,
        stream_store=core.stream_store,
        reauthentication=Reauthentication(accounts.uia),
        now=now_ms,
        remote_keys=elsewhere.keys,
        remote_devices=elsewhere.devices,
        my_turn=partial(core.turns.take, "devices"),
        remembered=shares.devices,
    )
    device_sections = (
        ToDeviceSection(devices.to_device),
        DeviceListsSection(devices.lists),
        KeyCountsSection(devices.counts),
    )
    fragments, sent = TimelineFragments(budget=shares.fragments), SentMembers(most=shares.sent_members)
    sync = build_sync(
        database=core.database,
        stream=core.stream,
        clock=clock,
        cache=core.cache,
        member_events=core.member_events,
        user_rooms=core.user_rooms,
        gate=core.gate,
        providers=Providers(
            receipts=data.receipts,
            account_data=AccountDataWithRules(data.account_data, data.push_rules),
            invites=permissions,
            typing=data.typing,
            presence=data.presence,
            unread=data.unread,
            extensions=device_sections,
        ),
        now=now_ms,
        fragments=fragments,
        sent=sent,
    )
    filters = WantedFilters(accounts.filters, budget=shares.filters)
    core.stream.subscribe(ForeignWakes(core.user_rooms, core.stream.listeners, core.cache))
    return Services(
        core=core,
        limits=limits,
        shared_limits=shared_limits,
        authenticator=TokenAuthenticator(accounts.authentication),
        accounts=accounts,
        users=users,
        data=data,
        rooms=rooms,
        delayed=delayed,
        reading=reading,
        reports=Reports(store=ReportStore(core.database), gate=core.gate, users=users, now=now_ms),
        devices=devices,
        device_sections=device_sections,
        sync=sync,
        long_poll=LongPoll(sync, core.stream.listeners, reactor),
        wanted_filters=filters,
        calls=build_calls(
            reactor,
            config,
            core,
            http=http,
            own_tokens=accounts.openid,
            remote_tokens=elsewhere.openid,
            delayed=delayed.events,
            ignored=data.account_data.ignored,
        ),
        media=build_media(
            reactor, config, core.database, elsewhere.media, now_ms, my_turn=partial(core.turns.take, "media")
        ),
        cache_sizes={
            "rooms": lambda: core.cache.weight,
            "member_events": lambda: core.member_events.weight,
            "timelines": lambda: reading.stretches.weight,
            "fragments": lambda: fragments.weight,
            "standings": lambda: core.user_rooms.size * STANDING_BYTES,
            "ledgers": lambda: data.unread.size * LEDGER_BYTES,
            "views": lambda: data.unread.view_weight,
            "receipts": lambda: data.recent_receipts.size * RECEIPT_BYTES,
            "sent_members": lambda: sent.size * SENT_BYTES,
            "tokens": lambda: accounts.cache.size * TOKEN_BYTES,
            "persons": lambda: data.presence.remembered_elsewhere * PERSON_BYTES,
            "pasts": lambda: core.gate.weight,
            "account_data": lambda: data.kept_account_data.weight,
            "push_rules": lambda: data.push_rules.weight,
            "filters": lambda: filters.weight,
            "device_lists": lambda: devices.news.list_weight,
            "devices": lambda: max(devices.counts.size, devices.to_device.size) * DEVICE_BYTES,
        },
    )
