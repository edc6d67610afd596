# SPDX-License-Identifier: Apache-2.0
"""What users keep and what is known of them while they are about, built in the order of its needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from homeserver.account_data.memory import UserDataCache
from homeserver.account_data.service import AccountData
from homeserver.app.core import Core, now_ms
from homeserver.app.elsewhere import Elsewhere, readers_of
from homeserver.app.shares import (
    shares_of,
)
from homeserver.config import Config
from homeserver.directory import DirectoryIndex, MutualRooms, UserSearch
from homeserver.presence.board import Board
from homeserver.presence.service import Presence
from homeserver.presence.sharing import Sharing
from homeserver.profiles.lookup import ProfileLookup
from homeserver.profiles.service import Profiles
from homeserver.protocol.identifiers import domain_of
from homeserver.push_rules import PushRules
from homeserver.receipts.recent import RecentReceipts
from homeserver.receipts.service import Receipts
from homeserver.rooms.membership.propagation import ProfilePropagation
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.typing.service import Typing, TypingNews
from homeserver.unread.service import Unread
from storage.account_data import AccountDataStore
from storage.presence import PresenceStore
from storage.profiles import ProfileStore
from storage.receipts import ReceiptStore
from storage.unread import UnreadStore
from storage.user_directory import UserDirectoryStore


class UserData(Struct, frozen=True, kw_only=True):
    """What users keep, and what is known of them while they are about."""

    account_data: AccountData
    kept_account_data: UserDataCache
    profiles: Profiles
    profile_lookup: ProfileLookup
    presence: Presence
    receipts: Receipts
    recent_receipts: RecentReceipts
    typing: Typing
    typing_news: TypingNews
    push_rules: PushRules
    unread: Unread
    search: UserSearch
    mutual_rooms: MutualRooms


def build_user_data(
    reactor: Any,
    config: Config,
    core: Core,
    clock: EphemeralClock,
    *,
    pause: Callable[[], Awaitable[None]],
    elsewhere: Elsewhere,
) -> UserData:
    """Build it; nothing runs before it is started."""
    database, stream = core.database, core.stream
    readers = readers_of(core)
    shares = shares_of(config.memory_budget)
    kept = UserDataCache(shares.account_data)
    account_data = AccountData(
        store=AccountDataStore(database),
        committer=core.committer,
        moved=stream.users,
        user_rooms=core.user_rooms,
        cache=kept,
    )
    recent_receipts = RecentReceipts(stream.position, readers, capacity=shares.receipts)
    receipts = Receipts(
        store=ReceiptStore(database),
        recent=recent_receipts,
        committer=core.committer,
        gate=core.gate,
        events=core.events,
        account_data=account_data,
        readers=readers,
        elsewhere=elsewhere.receipts,
        now=now_ms,
    )
    typing_news = TypingNews(
        origin=core.origin,
        clock=clock,
        scheduler=reactor,
        cache=core.cache,
        listeners=stream.listeners,
        readers=readers,
        notify=core.telling.notify,
        others=core.hearing,
        elsewhere=elsewhere.typing,
    )
    sharing = Sharing()
    for subscriber in (kept, recent_receipts, typing_news, sharing):
        stream.subscribe(subscriber)
    core.cache.on_remote(sharing.moved)
    presence = Presence(
        enabled=config.presence.enabled,
        origin=core.origin,
        board=Board(
            sharing=sharing,
            is_ours=lambda user_id: domain_of(user_id) == config.server_name,
            now=now_ms,
        ),
        sharing=sharing,
        store=PresenceStore(database),
        user_rooms=core.user_rooms,
        listeners=stream.listeners,
        elsewhere=elsewhere.presence,
        notify=core.telling.notify_all,
        others=core.hearing,
        scheduler=reactor,
        clock=clock,
        now=now_ms,
        most_remote=shares.persons,
    )
    directory_store = UserDirectoryStore(database)
    push_rules = PushRules(account_data, budget=shares.push_rules)
    profiles = Profiles(
        database=database,
        store=ProfileStore(database),
        index=DirectoryIndex(directory_store),
        propagation=ProfilePropagation(engine=core.engine, user_rooms=core.user_rooms),
        watcher=presence,
    )
    return UserData(
        account_data=account_data,
        kept_account_data=kept,
        profiles=profiles,
        profile_lookup=ProfileLookup(server_name=config.server_name, own=profiles, remote=elsewhere.profiles),
        presence=presence,
        receipts=receipts,
        recent_receipts=recent_receipts,
        typing=Typing(gate=core.gate, news=typing_news, elsewhere=elsewhere.typing),
        typing_news=typing_news,
        push_rules=push_rules,
        unread=Unread(
            stream=stream,
            rooms=core.cache,
            member_events=core.member_events,
            events=core.events,
            store=UnreadStore(database),
            recent_receipts=recent_receipts,
            rules=push_rules,
            ignoring=account_data,
            pause=pause,
            capacity=shares.ledgers,
            view_budget=shares.views,
        ),
        search=UserSearch(directory_store, search_all=config.user_directory.search_all),
        mutual_rooms=MutualRooms(core.user_rooms),
    )
