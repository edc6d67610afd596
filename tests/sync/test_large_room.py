# SPDX-License-Identifier: Apache-2.0
"""A room of ten thousand costs what a room of a hundred does, for all that does not list its members.

Counted are calls of functions, in Python and C; two thousand stand for ten thousand, since what grew with the members
would show in a room of twenty times as many.
"""

from __future__ import annotations

import cProfile
from collections.abc import Awaitable, Callable, Sequence

from homeserver.sync.request import SyncRequest, SyncResponse
from homeserver.sync.service import SyncService
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, Engine, member, message
from tests.sync.sync_fixture import Client, Process, filtered

SMALL, LARGE = 100, 2000
LIMIT = 2.0
LAZY = filtered(state={"lazy_load_members": True}, timeline={"limit": 20})


class Plain(Client):
    """Goes one way to a response only, as clients do."""

    async def _response(self, request: SyncRequest, sync: SyncService) -> SyncResponse:
        return await sync.sync(request)


async def room_of(engine: Engine, members: int) -> str:
    """A room of so many members and twice as many events."""
    room = await engine.new_room()
    everybody = [BOB, *(f"@member{number}:localhost" for number in range(members - 2))]
    for start in range(0, len(everybody), 500):
        joins = [member(user, "join") for user in everybody[start : start + 500]]
        await engine.engine.write(room.room_id, lambda _head, joins=joins: joins, users=())  # type: ignore[misc]
        texts = [message(BOB, f"message {start + number}") for number in range(len(joins))]
        await engine.engine.write(room.room_id, lambda _head, texts=texts: texts, users=(BOB,))  # type: ignore[misc]
    return room.room_id


async def counted(operation: Callable[[], Awaitable[object]]) -> int:
    """Calls that an operation takes."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        await operation()
    finally:
        profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


async def costs(process: Process, room_id: str, newcomers: Sequence[str]) -> dict[str, int]:
    """Calls of each operation, for the one of those who join for whom they are fewest.

    What is done the first time takes more, and so does what the reactor turns to others in between.
    """
    found: dict[str, int] = {}

    async def note(name: str, operation: Callable[[], Awaitable[object]]) -> None:
        calls = await counted(operation)
        found[name] = min(calls, found.get(name, calls))

    alice, lazy = Plain(process, ALICE, "DEVICE"), Plain(process, ALICE, "LAZY", filter=LAZY)
    await alice.sync()
    for joiner in newcomers:
        await note("join", lambda joiner=joiner: process.engine.join(room_id, joiner))  # type: ignore[misc]
        await alice.sync()
        await note("send", lambda: process.engine.send(room_id, BOB, "hello"))
        await note("incremental sync", alice.sync)
        lazy.since = None
        await note("initial sync, lazy", lazy.sync)
        first = Plain(process, joiner, "FIRST", filter=LAZY)
        await note("initial sync of who joined", first.sync)
    return found


async def test_what_lists_no_members_costs_the_same_in_a_large_room(database: Database) -> None:
    found = {}
    for members in (SMALL, LARGE):
        process = await Process.open(database)
        room_id = await room_of(process.engine, members)
        # Nobody of the other room, which would be in their first sync as well.
        newcomers = [f"@newcomer{number}-of-{members}:localhost" for number in range(3)]
        found[members] = await costs(process, room_id, newcomers)
        await process.engine.engine.write(room_id, lambda _head: [member(ALICE, "leave")], users=(ALICE,))
    ratios = {name: found[LARGE][name] / found[SMALL][name] for name in found[SMALL]}
    assert {name: ratio for name, ratio in ratios.items() if ratio >= LIMIT} == {}
