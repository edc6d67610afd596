# SPDX-License-Identifier: Apache-2.0
"""The reading services on a real database, and rooms whose history is open to some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.rooms.engine import Draft
from homeserver.rooms.reading.by_time import EventsByTime
from homeserver.rooms.reading.context import EventContext
from homeserver.rooms.reading.member_history import MemberHistory
from homeserver.rooms.reading.members import RoomMembers
from homeserver.rooms.reading.messages import Messages, MessagesQuery
from homeserver.rooms.reading.places import Places
from homeserver.rooms.reading.presenting import Presenter
from homeserver.rooms.reading.room_state import RoomState
from homeserver.rooms.reading.single_event import SingleEvent
from homeserver.rooms.reading.timeline import TimelineReader
from storage.database import Database
from storage.timelines import TimelineStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import Engine

NOW = 1_700_000_100_000


@dataclass(frozen=True, slots=True)
class Client:
    """A user on a device."""

    user_id: str
    device_id: str | None = "DEVICE"


@dataclass(slots=True)
class Ignoring:
    """Who ignores whom."""

    lists: dict[str, frozenset[str]] = field(default_factory=dict)

    async def ignored(self, user_id: str) -> frozenset[str]:
        return self.lists.get(user_id, frozenset())


@dataclass(frozen=True, slots=True)
class Reading:
    """The services, as `homeserver/app.py` builds them."""

    engine: Engine
    ignoring: Ignoring
    timeline: TimelineReader
    messages: Messages
    context: EventContext
    event: SingleEvent
    state: RoomState
    members: RoomMembers
    by_time: EventsByTime

    @classmethod
    async def open(cls, database: Database) -> Reading:
        engine = await Engine.open(database)
        gate, events, store = engine.gate, engine.events, TimelineStore(database)
        walks, ignoring = Places(store), Ignoring()
        presenter = Presenter(now=lambda: NOW, pause=pause)
        timeline = TimelineReader(events=events, gate=gate, walks=walks)
        return cls(
            engine=engine,
            ignoring=ignoring,
            timeline=timeline,
            messages=Messages(
                gate=gate,
                timeline=timeline,
                walks=walks,
                members=MemberHistory(store=store, gate=gate),
                ignored_users=ignoring,
                presenter=presenter,
            ),
            context=EventContext(
                gate=gate, timeline=timeline, store=store, ignored_users=ignoring, presenter=presenter
            ),
            event=SingleEvent(gate=gate, presenter=presenter),
            state=RoomState(gate=gate, store=store, presenter=presenter),
            members=RoomMembers(gate=gate, walks=walks, events=events, store=store, presenter=presenter),
            by_time=EventsByTime(gate=gate, store=store),
        )

    async def page(self, user: str, room_id: str, **query: Any) -> dict[str, Any]:
        """One page of messages, backwards unless told otherwise."""
        asked = MessagesQuery(**{"backwards": True, **query})
        answer: dict[str, Any] = orjson.loads(await self.messages.page(Client(user), room_id, asked))
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
