# SPDX-License-Identifier: Apache-2.0
"""A sync on a real engine and database, and a client that goes on from where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson

from homeserver.protocol.filters import NO_FILTER, SyncFilter
from homeserver.protocol.tokens import SyncToken
from homeserver.rooms.engine import Draft, SendTransaction
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.sync.building import build_sync
from homeserver.sync.request import StateAfter, SyncRequest, SyncResponse
from homeserver.sync.service import SyncService
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, Engine, member
from tests.sync.fakes import Fakes

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Process:
    """One process's worth of sync."""

    engine: Engine
    clock: EphemeralClock
    fakes: Fakes
    sync: SyncService

    @classmethod
    async def open(cls, database: Database) -> Process:
        return cls.on(await Engine.open(database))

    @classmethod
    def on(cls, engine: Engine) -> Process:
        ticks = count(1_700_000_000_000)
        clock = EphemeralClock(lambda: next(ticks))
        fakes = Fakes.make(clock)
        sync = build_sync(
            database=engine.database,
            stream=engine.stream,
            clock=clock,
            cache=engine.cache,
            member_events=engine.member_events,
            user_rooms=engine.user_rooms,
            gate=engine.gate,
            providers=fakes.providers(),
            now=lambda: 1_700_000_100_000,
        )
        return cls(engine, clock, fakes, sync)

    def client(self, user_id: str = ALICE, device_id: str = "DEVICE", **options: Any) -> Client:
        return Client(self, user_id, device_id, **options)

    async def write(self, room_id: str, *drafts: Draft) -> list[str]:
        """Write drafts as one plan; their event ids."""
        users = {draft.sender for draft in drafts} | {
            draft.state_key for draft in drafts if draft.type == "m.room.member" and draft.state_key
        }
        written = await self.engine.engine.write(room_id, lambda _: drafts, users=sorted(users))
        return [entry.stored.event_id for entry in written.events]

    async def set_membership(
        self, room_id: str, user: str, membership: str, sender: str | None = None
    ) -> str:
        return (await self.write(room_id, member(user, membership, sender)))[0]

    async def send(self, room_id: str, sender: str, *bodies: str) -> list[str]:
        """Send messages one after the other; their event ids."""
        return [await self.engine.send(room_id, sender, body) for body in bodies]

    async def send_as_device(self, room_id: str, sender: str, device: str, body: str) -> str:
        transaction = SendTransaction(sender, device, "send", f"txn-{body}")
        draft = Draft("m.room.message", sender, {"body": body}, transaction=transaction)
        written = await self.engine.engine.write(
            room_id, lambda _: [draft], users=(sender,), transaction=transaction
        )
        return written.event_id

    async def redact(self, room_id: str, sender: str, event_id: str) -> str:
        target = (await self.engine.events.by_ids([event_id]))[event_id]
        return (await self.write(room_id, Draft("m.room.redaction", sender, {}, redacts=target)))[0]

    async def touch(self, *users: str) -> int:
        """Take a position for the users' own data."""
        return await self.engine.committer.write("account_data", [_ROW], users=users) + 1


_ROW: Json = {"user_id": "@nobody:localhost", "room": 0, "type": "test", "content": "{}", "expected": None}


@dataclass(slots=True)
class Client:
    """Syncs, keeps its token, and answers questions about the last response."""

    process: Process
    user_id: str
    device_id: str
    filter: SyncFilter = NO_FILTER
    state_after: StateAfter | None = None
    since: SyncToken | None = None
    last: Json = field(default_factory=dict)
    has_news: bool = False
    shortened: int = 0
    """How many responses were made at once."""

    async def sync(self, *, full_state: bool = False, process: Process | None = None) -> Json:
        request = SyncRequest(
            user_id=self.user_id,
            device_id=self.device_id,
            since=self.since,
            filter=self.filter,
            full_state=full_state,
            state_after=self.state_after,
        )
        response = await self._response(request, (process or self.process).sync)
        self.last = orjson.loads(response.body)
        assert self.last["next_batch"] == str(response.next_batch)
        self.since, self.has_news = response.next_batch, response.has_news
        return self.last

    async def _response(self, request: SyncRequest, sync: SyncService) -> SyncResponse:
        """The response, once it was made sure that the short way to it leads to the same as the long one."""
        short = sync.at_once(request)
        response = await sync.sync_from_all(request)
        if short is None:
            return response
        self.shortened += 1
        assert short == response
        return short

    def room(self, room_id: str, section: str = "join") -> Json:
        room: Json = self.last["rooms"][section][room_id]
        return room

    def has(self, room_id: str, section: str = "join") -> bool:
        return room_id in self.last["rooms"][section]

    def timeline(self, room_id: str, section: str = "join") -> list[Json]:
        events: list[Json] = self.room(room_id, section)["timeline"]["events"]
        return events

    def bodies(self, room_id: str, section: str = "join") -> list[str]:
        return [
            e["content"]["body"] for e in self.timeline(room_id, section) if e["type"] == "m.room.message"
        ]

    def state(self, room_id: str, section: str = "join") -> dict[tuple[str, str], Json]:
        events: list[Json] = self.room(room_id, section)[self.state_after or "state"]["events"]
        keyed = {(event["type"], event["state_key"]): event for event in events}
        assert len(keyed) == len(events), "a key of the state stands there twice"
        return keyed

    def shown(self, room_id: str, section: str = "join") -> dict[tuple[str, str], Json]:
        """The state once the timeline has been played on it."""
        state = dict(self.state(room_id, section))
        for event in self.timeline(room_id, section):
            if "state_key" in event:
                state[event["type"], event["state_key"]] = event
        return state

    def members(self, room_id: str, section: str = "join") -> set[str]:
        """Whose member events the state has."""
        return {key[1] for key in self.state(room_id, section) if key[0] == "m.room.member"}


def filtered(**room: Any) -> SyncFilter:
    """A filter of rooms' parts: `filtered(timeline={"limit": 1})`."""
    return SyncFilter.parse({"room": room})


def topic(text: str, sender: str = ALICE) -> Draft:
    return Draft("m.room.topic", sender, {"topic": text}, "")


def types(events: Sequence[Json]) -> list[str]:
    return [event["type"] for event in events]
