# SPDX-License-Identifier: Apache-2.0
"""The endpoints of what users keep and show of themselves, on a port of loopback, over a room engine of their own."""

from __future__ import annotations

import io

from twisted.internet.task import Clock

from homeserver.account_data import AccountData, UserDataCache
from homeserver.clientapi.user_data import user_data_routes
from homeserver.config.sections import Listener
from homeserver.directory import DirectoryIndex, MutualRooms, UserSearch
from homeserver.observability.access_log import AccessLog
from homeserver.observability.log_output import LogOutput
from homeserver.observability.metrics import HttpMetrics
from homeserver.presence import Board, Presence, Sharing
from homeserver.presence import NobodyElsewhere as NoPresenceElsewhere
from homeserver.profiles import Profiles
from homeserver.profiles.lookup import NoRemoteProfiles, ProfileLookup
from homeserver.receipts import NobodyElsewhere as NoReceiptsElsewhere
from homeserver.receipts import Receipts, RecentReceipts
from homeserver.rooms.membership.propagation import ProfilePropagation
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.typing import NobodyElsewhere as NoTypingElsewhere
from homeserver.typing import Typing, TypingNews
from homeserver.web.hearing import NoOthers
from homeserver.web.listeners import WebServer
from homeserver.web.rate_limits import RateLimits
from homeserver.web.routing import Route
from storage.account_data import AccountDataStore
from storage.database import Database, Transaction
from storage.notifications import NotificationStore
from storage.presence import PresenceStore
from storage.profiles import ProfileStore
from storage.receipts import ReceiptStore
from storage.user_directory import UserDirectoryStore
from storage.users import NewUser, UserStore
from tests.clientapi.room_site import TOKENS, RoomSite
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine


class UserDataSite(RoomSite):
    """A server for Alice, Bob and Carol; time stands still for what runs out by itself."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self.engine = engine
        self.log = io.StringIO()
        self._server = WebServer(
            reactor,
            routes=_routes(engine, database),
            authenticator=TOKENS,
            limits=RateLimits(reactor.seconds, enabled=False),
            metrics=HttpMetrics(),
            access_log=AccessLog(LogOutput(self.log)),
            max_body=1_000_000,
        )
        self._port = self._server.listen(Listener(port=0)).port.getHost().port
        self._connection = None

    @classmethod
    async def open(cls, database: Database) -> UserDataSite:
        """With the three accounts."""
        users = UserStore(database)

        async def create(txn: Transaction) -> None:
            for user_id in (ALICE, BOB, CAROL, "@guest:localhost"):
                await users.create_txn(txn, NewUser(user_id=user_id, password_hash=None), 0)

        await database.transaction("test", create)
        return cls(await Engine.open(database), database)


def _routes(engine: Engine, database: Database) -> tuple[Route, ...]:
    stream, time = engine.stream, Clock()

    def now() -> int:
        return 1_700_000_000_000

    clock, sharing, cache = EphemeralClock(now), Sharing(), UserDataCache()
    notify = NotificationStore(database)
    recent = RecentReceipts(stream.position, lambda _room: ())
    account_data = AccountData(
        store=AccountDataStore(database),
        committer=engine.committer,
        moved=stream.users,
        user_rooms=engine.user_rooms,
        cache=cache,
    )
    presence = Presence(
        enabled=True,
        origin="test",
        board=Board(sharing=sharing, is_ours=lambda _: True, now=now),
        sharing=sharing,
        store=PresenceStore(database),
        user_rooms=engine.user_rooms,
        listeners=stream.listeners,
        elsewhere=NoPresenceElsewhere(),
        notify=notify.notify_all,
        others=NoOthers(),
        scheduler=time,
        clock=clock,
        now=now,
    )
    news = TypingNews(
        origin="test",
        clock=clock,
        scheduler=time,
        cache=engine.cache,
        listeners=stream.listeners,
        readers=lambda _: stream.listeners.users,
        notify=notify.notify,
        others=NoOthers(),
        elsewhere=NoTypingElsewhere(),
    )
    for subscriber in (cache, recent, sharing, news):
        stream.subscribe(subscriber)
    directory = UserDirectoryStore(database)
    profiles = Profiles(
        database=database,
        store=ProfileStore(database),
        index=DirectoryIndex(directory),
        propagation=ProfilePropagation(engine=engine.engine, user_rooms=engine.user_rooms),
        watcher=presence,
    )
    return user_data_routes(
        account_data=account_data,
        presence=presence,
        profiles=profiles,
        profile_lookup=ProfileLookup(server_name="localhost", own=profiles, remote=NoRemoteProfiles()),
        receipts=Receipts(
            store=ReceiptStore(database),
            recent=recent,
            committer=engine.committer,
            gate=engine.gate,
            events=engine.events,
            account_data=account_data,
            readers=lambda _room: (),
            elsewhere=NoReceiptsElsewhere(),
            now=now,
        ),
        typing=Typing(gate=engine.gate, news=news, elsewhere=NoTypingElsewhere()),
        search=UserSearch(directory, search_all=False),
        mutual_rooms=MutualRooms(engine.user_rooms),
    )
