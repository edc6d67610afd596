# SPDX-License-Identifier: Apache-2.0
"""Account data, push rules and receipts of one process, for tests of what stands on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from homeserver.account_data import AccountData, UserDataCache
from homeserver.push_rules import PushRules
from homeserver.receipts import NobodyElsewhere, Receipts, RecentReceipts
from homeserver.rooms.engine.head import concerned
from storage.account_data import AccountDataStore
from storage.database import Database
from storage.receipts import ReceiptStore
from tests.rooms.engine_fixture import Engine


@dataclass(frozen=True, slots=True)
class Process:
    """One process."""

    engine: Engine
    account_data: AccountData
    push_rules: PushRules
    receipts: Receipts
    recent_receipts: RecentReceipts

    @classmethod
    async def open(cls, database: Database) -> Process:
        engine = await Engine.open(database)
        stream = engine.stream

        def readers(key: int) -> list[str]:
            room = engine.cache.peek_key(key)
            waiting = stream.listeners.users
            return list(waiting) if room is None else concerned(room.head, waiting)

        user_data = UserDataCache()
        recent = RecentReceipts(stream.position, readers)
        await database.listen("receipts", recent.heard)
        stream.subscribe(user_data)
        stream.subscribe(recent)
        account_data = AccountData(
            store=AccountDataStore(database),
            committer=engine.committer,
            moved=stream.users,
            user_rooms=engine.user_rooms,
            cache=user_data,
        )
        ticks = count(1000)
        receipts = Receipts(
            store=ReceiptStore(database),
            recent=recent,
            committer=engine.committer,
            gate=engine.gate,
            events=engine.events,
            account_data=account_data,
            readers=readers,
            elsewhere=NobodyElsewhere(),
            now=lambda: next(ticks),
        )
        return cls(engine, account_data, PushRules(account_data), receipts, recent)
