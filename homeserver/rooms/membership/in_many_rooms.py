# SPDX-License-Identifier: Apache-2.0
"""Writing one user's member events in many rooms: a few rooms at a time, read with a few queries for all of them.

The writes of a chunk run at once and so share group commits; a room that refuses does not stop the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.errors import MatrixError
from homeserver.protocol.errors import ProtocolError
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead

logger = logging.getLogger(__name__)

CHUNK = 50
"""Rooms written at once."""


async def write_in_rooms(
    engine: RoomEngine,
    user_id: str,
    keys: Sequence[int],
    plan: Callable[[RoomHead], Sequence[Draft]],
) -> None:
    """Run the plan in every one of the rooms.

    What a room's rules refuse is logged and left; any other failure is raised once the chunk it happened in is done.
    """
    for start in range(0, len(keys), CHUNK):
        rooms = await engine.cache.get_many(keys=keys[start : start + CHUNK])
        await engine.load_members([(room.head, user_id) for room in rooms.values()])
        writes: list[Deferred[object]] = [
            Deferred.fromCoroutine(_write(engine, room_id, user_id, plan)) for room_id in rooms
        ]
        outcomes: list[tuple[bool, object]] = list(await DeferredList(writes, consumeErrors=True))
        for room_id, (_, result) in zip(rooms, outcomes, strict=True):
            if not isinstance(result, Failure):
                continue
            if not isinstance(result.value, MatrixError | ProtocolError):
                result.raiseException()
            logger.info("room %s refused a member event of %s: %s", room_id, user_id, result.value)


async def _write(
    engine: RoomEngine, room_id: str, user_id: str, plan: Callable[[RoomHead], Sequence[Draft]]
) -> object:
    return await engine.write(room_id, plan, users=(user_id,))
