# SPDX-License-Identifier: Apache-2.0
"""The engine's door: write a plan into a room, create a room.

Idempotence by transaction: retries that arrive while the first is on its way share its outcome; later ones, on any
process and after any restart, are found out by the database when they try to commit.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from homeserver.events import RoomEvent
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.engine.cache import RoomCache
from homeserver.rooms.engine.drafts import DirectoryEntry, Draft, SendTransaction
from homeserver.rooms.engine.head import RoomHead, concerned
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.queued import Deed, Plan, Work, Written
from homeserver.rooms.engine.recommending import PolicyServers, sign_guarded
from homeserver.rooms.engine.room import Room
from homeserver.rooms.engine.working import MissingEvents, Signer, WorkingRoom
from homeserver.rooms.engine.writer import RoomWriter, WriterTools
from homeserver.stream import Committer, RoomCommit

RECENT_TRANSACTIONS = 2_000
"""Of those that stand, ids kept for clients that ask again at once; later the database is asked."""
CREATE_TRIES = 3


class RoomEngine:
    """One per process."""

    def __init__(self, tools: WriterTools) -> None:
        self._tools = tools
        self._writers: dict[str, RoomWriter] = {}
        self._create_time = 0
        self._in_flight: dict[str, list[Deferred[Written]]] = {}
        self._recent: OrderedDict[str, str] = OrderedDict()

    @property
    def committer(self) -> Committer:
        return self._tools.committer

    @property
    def cache(self) -> RoomCache:
        return self._tools.cache

    @property
    def signer(self) -> Signer:
        return self._tools.signer

    @property
    def policy_servers(self) -> PolicyServers:
        return self._tools.policy_servers

    def longest_queue(self) -> int:
        """How much waits for its room's writer where the most does."""
        return max((writer.waiting for writer in self._writers.values()), default=0)

    @property
    def server_name(self) -> str:
        return self._tools.signer.server_name

    def member_event(self, head: RoomHead, user_id: str) -> RoomEvent | None:
        """A user's member event on the head a plan was given; None if there is none.

        For plans only: if the event is not in memory, what this raises has it loaded and the plan run again.
        """
        member = head.members.get(user_id)
        if member is None:
            return None
        fresh = head.fresh_members.get(user_id)
        if fresh is not None and fresh.stored.ordinal == member.ordinal:
            return fresh
        entry = self._tools.member_events.peek(head.room, member.ordinal)
        if entry is None:
            raise MissingEvents((member.ordinal,))
        return entry

    async def load_members(self, wanted: Iterable[tuple[RoomHead, str]]) -> None:
        """Bring those users' member events of many rooms into memory with one query, ahead of writing there."""
        await self._tools.member_events.load_many(
            (head.room, head.room_id, head.version, head.members[user_id].ordinal)
            for head, user_id in wanted
            if user_id in head.members
        )

    async def write(
        self,
        room_id: str,
        plan: Plan,
        *,
        users: Sequence[str] = (),
        transaction: SendTransaction | None = None,
    ) -> Written:
        """Write what the plan says on the room's newest head; return when it is durable.

        `users` names the senders and targets, whose member events are then loaded in one query beforehand. A plan with
        a transaction must put that transaction on one of its drafts. Raises what the plan raises, AuthError,
        EventFormatError, NotFound for a room that is not known.
        """
        if transaction is None:
            return await self._writer(room_id).write(plan, users, None)
        known = self._recent.get(transaction.key)
        if known is not None:
            return Written(replayed=known)
        waiting = self._in_flight.get(transaction.key)
        if waiting is not None:
            other: Deferred[Written] = Deferred()
            waiting.append(other)
            return await other
        return await self._write_once(room_id, plan, users, transaction)

    async def _write_once(
        self, room_id: str, plan: Plan, users: Sequence[str], transaction: SendTransaction
    ) -> Written:
        key = transaction.key
        self._in_flight[key] = []
        try:
            written = await self._writer(room_id).write(plan, users, transaction)
            replay = Written(replayed=written.event_id)
        except Exception as error:
            for other in self._in_flight.pop(key):
                other.errback(error)
            raise
        self._remember(key, written.event_id)
        for other in self._in_flight.pop(key):
            other.callback(replay)
        return written

    def _remember(self, key: str, event_id: str) -> None:
        self._recent[key] = event_id
        while len(self._recent) > RECENT_TRANSACTIONS:
            self._recent.popitem(last=False)

    async def do(self, room_id: str, work: Work, *, users: Sequence[str] = ()) -> Any:
        """Have work done in the room's next batch; what it returned, once that is durable. NotFound as `write`."""
        return await self._writer(room_id).do(work, users)

    async def do_alone(self, room_id: str, deed: Deed) -> Any:
        """Have something done to the room while this process writes nothing else there."""
        return await self._writer(room_id).do_alone(deed)

    def working(self, head: RoomHead, loaded: Iterable[RoomEvent]) -> WorkingRoom:
        """A copy of a head to try something on; nothing of it is written."""
        tools = self._tools
        return WorkingRoom(
            head,
            signer=tools.signer,
            member_events=tools.member_events,
            loaded={entry.stored.ordinal: entry for entry in loaded},
            now=tools.now,
        )

    @property
    def member_events(self) -> MemberEvents:
        return self._tools.member_events

    def _writer(self, room_id: str) -> RoomWriter:
        writer = self._writers.get(room_id)
        if writer is None:
            writer = self._writers[room_id] = RoomWriter(room_id, self._tools, self._writer_finished)
        return writer

    def _writer_finished(self, room_id: str) -> None:
        self._writers.pop(room_id, None)

    async def create(
        self,
        version: RoomVersion,
        create: Draft,
        plan: Callable[[RoomHead], Iterable[Draft]],
        directory: DirectoryEntry | None = None,
    ) -> Room | None:
        """A new room: its create event, then what the plan says given the room with only that (and its id).

        The plan may be a generator: the head it was given is then, at each step, the room as drafted so far. The room
        exists wholly, its alias and place in the directory included, or not at all; None if the alias is taken.
        Raises what the plan raises, AuthError, EventFormatError.
        """
        for _ in range(CREATE_TRIES):
            room = await self._create(version, create, plan, directory)
            if room is not None:
                return room
        if directory is not None and directory.alias is not None:
            return None
        raise RuntimeError("the id of a new room was taken again and again")

    async def _create(
        self,
        version: RoomVersion,
        create: Draft,
        plan: Callable[[RoomHead], Iterable[Draft]],
        directory: DirectoryEntry | None,
    ) -> Room | None:
        """One attempt; None if the room's id or its alias was taken."""
        tools = self._tools
        working = WorkingRoom(
            RoomHead("" if version.room_id_is_create_hash else self._new_room_id(), version),
            signer=tools.signer,
            member_events=tools.member_events,
            loaded={},
            now=tools.now,
        )
        working.append(replace(create, origin_server_ts=self._new_create_time()))
        for draft in plan(working.head):
            working.append(draft)
        if working.guarded:
            for refusal in (await sign_guarded(tools.policy_servers, working, working.guarded)).values():
                raise refusal
        batch = working.moving.batch()
        if directory is not None:
            batch.room.update(directory.row())
        rooms: list[Room] = []
        with tools.cache.adding() as add:

            def landed(commit: RoomCommit) -> list[str]:
                head = working.moving.landed(commit.before, commit.room)
                rooms.append(add(head, working.appended))
                return concerned(head, tools.listening.users)

            if await tools.committer.commit_room(batch, landed) is None:
                return None
        for entry in working.appended:
            if entry.stored.type == "m.room.member":
                tools.member_events.put(entry)
        return rooms[0]

    def _new_create_time(self) -> int:
        """Never the same twice: where the room id is the create event's hash, equal events would be one room."""
        self._create_time = max(self._create_time + 1, self._tools.now())
        return self._create_time

    def _new_room_id(self) -> str:
        return f"!{secrets.token_urlsafe(13).replace('-', 'a').replace('_', 'b')}:{self._tools.signer.server_name}"
