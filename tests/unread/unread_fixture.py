# SPDX-License-Identifier: Apache-2.0
"""Unread counts of one process on a real database, with what was asked of the database to give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from twisted.internet.task import deferLater

from homeserver.protocol.push_rules import CompiledRules
from homeserver.push_rules import PushRules
from homeserver.rooms.engine import Draft, Room
from homeserver.unread import Unread, UnreadCounts
from homeserver.unread.service import Rules
from storage.database import Database
from storage.unread import UnreadEvent, UnreadRange, UnreadStore
from tests.push_rules.rules_fixture import Process
from tests.reactor import reactor
from tests.rooms.engine_fixture import Engine

NOTHING = UnreadCounts()
PATIENCE = 30.0
"""Seconds until what must come is taken never to."""


class CountingStore:
    """Reads for counting, and how often."""

    def __init__(self, database: Database) -> None:
        self._unread = UnreadStore(database)
        self.queries: list[str] = []

    async def read(self, user_id: str, rooms: Sequence[int]) -> dict[int, list[tuple[str, int]]]:
        self.queries.append(f"receipts of {len(rooms)}")
        return await self._unread.read(user_id, rooms)

    async def events(self, ranges: Sequence[UnreadRange], limit: int) -> dict[int, list[UnreadEvent]]:
        self.queries.append(f"events of {len(ranges)}")
        return await self._unread.events(ranges, limit)


class Slow:
    """Rules that are always to be waited for, so that nothing is judged at once."""

    def __init__(self, rules: PushRules) -> None:
        self._rules = rules

    async def compiled(self, user_id: str) -> CompiledRules:
        return await self._rules.compiled(user_id)

    def compiled_at_once(self, _user_id: str) -> CompiledRules | None:
        return None


@dataclass(frozen=True, slots=True)
class Counter:
    """One process that counts."""

    process: Process
    unread: Unread
    store: CountingStore
    quick: Unread
    """Asked as syncs do that want an answer at once, and must come to the same."""

    @classmethod
    async def open(cls, database: Database, capacity: int = 1000) -> Counter:
        process = await Process.open(database)
        engine, store = process.engine, CountingStore(database)

        def make(store: CountingStore, rules: Rules) -> Unread:
            return Unread(
                stream=engine.stream,
                rooms=engine.cache,
                member_events=engine.member_events,
                events=engine.events,
                store=store,
                recent_receipts=process.recent_receipts,
                rules=rules,
                ignoring=process.account_data,
                pause=pause,
                capacity=capacity,
            )

        return cls(
            process,
            make(store, Slow(process.push_rules)),
            store,
            make(CountingStore(database), process.push_rules),
        )

    @property
    def engine(self) -> Engine:
        return self.process.engine

    async def all_counts(self, user_id: str, *rooms: Room) -> list[UnreadCounts]:
        keys, position = [room.key for room in rooms], self.engine.stream.position
        found = await self.unread.counts(user_id, keys, position)
        counts = [found.get(key, NOTHING) for key in keys]
        quickly = [await self._quickly(user_id, key, position) for key in keys]
        if counts != quickly:  # something came in between, which is shown in a moment
            until = monotonic() + PATIENCE
            while self.engine.stream.position == position and monotonic() < until:
                await pause()
            assert self.engine.stream.position > position, (counts, quickly)
        return counts

    async def _quickly(self, user_id: str, key: int, position: int) -> UnreadCounts:
        ignored = await self.process.account_data.ignored(user_id)
        found = self.quick.at_once(user_id, key, position, ignored)
        if found is None:
            found = (await self.quick.counts(user_id, [key], position)).get(key, NOTHING)
        return found

    async def counts(self, user_id: str, room: Room) -> UnreadCounts:
        return (await self.all_counts(user_id, room))[0]

    async def total(self, user_id: str, room: Room) -> tuple[int, int]:
        """Notifications and highlights."""
        counts = (await self.counts(user_id, room)).room
        return counts.notifications, counts.highlights

    async def write(
        self, room: Room, sender: str, content: dict[str, Any], event_type: str = "m.room.message"
    ) -> str:
        draft = Draft(event_type, sender, content)
        return (await self.engine.engine.write(room.room_id, lambda _: [draft], users=(sender,))).event_id

    async def redact(self, room: Room, sender: str, event_id: str) -> None:
        target = (await self.engine.events.by_ids((event_id,)))[event_id]
        draft = Draft("m.room.redaction", sender, {}, redacts=target)
        await self.engine.engine.write(room.room_id, lambda _: [draft], users=(sender,))

    async def reached(self, position: int) -> None:
        """Let the reactor turn until this process shows a position."""
        while self.engine.stream.position < position:
            await pause()


async def pause() -> None:
    await deferLater(reactor, 0)


def text(body: str = "hello", **content: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body, **content}


def mentioning(*users: str) -> dict[str, Any]:
    return text("you!", **{"m.mentions": {"user_ids": list(users)}})


def related(rel_type: str, event_id: str) -> dict[str, Any]:
    return {**text(), "m.relates_to": {"rel_type": rel_type, "event_id": event_id}}
