# SPDX-License-Identifier: Apache-2.0
"""The reading services on a real database, and rooms whose history is open to some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.rooms.engine import Draft
from homeserver.rooms.reading.messages import MessagesQuery
from homeserver.rooms.reading.missing_history import MissingHistory, NoMissingHistory
from homeserver.rooms.reading.services import ReadingServices, build_reading_services
from homeserver.rooms.whole_rooms import WholeRooms
from storage.database import Database
from storage.gaps import GapStore
from storage.parents import ParentStore
from storage.relations import RelationStore
from storage.room_history import RoomHistoryStore
from storage.timelines import TimelineStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import Engine

NOW = 1_700_000_100_000


@dataclass(frozen=True, slots=True)
class Client:
    """A user on a device."""

    user_id: str
    device_id: str | None = "DEVICE"


@dataclass(frozen=True, slots=True)
class Kept:
    """All account data of a user."""

    global_: Sequence[Mapping[str, Any]] = ()
    rooms: Mapping[int, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(slots=True)
class World:
    """What the services hear from elsewhere."""

    ignoring: dict[str, frozenset[str]] = field(default_factory=dict)
    blocking: set[str] = field(default_factory=set)
    kept: Kept = field(default_factory=Kept)
    published: set[int] = field(default_factory=set)

    async def ignored(self, user_id: str) -> frozenset[str]:
        return self.ignoring.get(user_id, frozenset())

    async def blocks_all(self, user_id: str) -> bool:
        return user_id in self.blocking

    async def changed(self, user_id: str, since: int, upto: int) -> Kept:
        assert since == 0 < upto
        return self.kept

    async def published_among(self, rooms: Sequence[int]) -> set[int]:
        return self.published & set(rooms)


class Presence:
    """Alice is always there."""

    def changed(self, user_id: str, since: int) -> Sequence[Mapping[str, Any]]:
        assert since == 0
        return [{"type": "m.presence", "sender": "@alice:localhost", "content": {"presence": "online"}}]


@dataclass(frozen=True, slots=True)
class Reading:
    """The services of one process."""

    engine: Engine
    world: World
    services: ReadingServices

    @classmethod
    async def open(
        cls,
        database: Database,
        *,
        engine: Engine | None = None,
        missing: MissingHistory | None = None,
        budget: int = 1_000_000,
    ) -> Reading:
        """Put together as `homeserver/app/services.py` does."""
        engine, world = engine or await Engine.open(database), World()
        services = build_reading_services(
            clock=reactor,
            now=lambda: NOW,
            pause=pause,
            stream=engine.stream,
            gate=engine.gate,
            cache=engine.cache,
            user_rooms=engine.user_rooms,
            events=engine.events,
            timelines=TimelineStore(database),
            gaps=GapStore(database),
            relations=RelationStore(database),
            parents=ParentStore(database),
            history=RoomHistoryStore(database),
            published=world,
            account_data=world,
            permissions=world,
            presence=Presence(),
            whole=WholeRooms(engine.cache, reactor),
            missing=missing or NoMissingHistory(),
            budget=budget,
        )
        return cls(engine, world, services)

    async def page(self, user: str, room_id: str, **query: Any) -> dict[str, Any]:
        """One page of messages, backwards unless told otherwise."""
        asked = MessagesQuery(**{"backwards": True, **query})
        answer: dict[str, Any] = orjson.loads(await self.services.messages.page(Client(user), room_id, asked))
        return answer

    async def walk(self, user: str, room_id: str, *, most: int = 200, **query: Any) -> list[str]:
        """Event ids of all pages in a row."""
        found: list[str] = []
        for _ in range(most):
            answer = await self.page(user, room_id, **query)
            found.extend(event["event_id"] for event in answer["chunk"])
            if "end" not in answer:
                return found
            assert answer["end"] != query.get("start"), "no progress"
            query["start"] = answer["end"]
        raise AssertionError("pagination does not end")

    async def write(self, room_id: str, *drafts: Draft) -> list[str]:
        """Write drafts one by one; their event ids."""
        written = []
        for draft in drafts:
            users = [draft.sender, *([draft.state_key] if draft.type == "m.room.member" else [])]
            result = await self.engine.engine.write(
                room_id,
                lambda _head, draft=draft: [draft],  # type: ignore[misc]
                users=[user for user in users if user is not None],
            )
            written.append(result.event_id)
        return written


async def pause() -> None:
    """Let the reactor turn."""
    waiting: Deferred[None] = deferLater(reactor, 0)
    await waiting


def visibility(sender: str, setting: str) -> Draft:
    """A draft of a room's history visibility."""
    return Draft("m.room.history_visibility", sender, {"history_visibility": setting}, "")


def ids(events: Sequence[dict[str, Any]]) -> list[str]:
    """The ids of rendered events."""
    return [event["event_id"] for event in events]
