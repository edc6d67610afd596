# SPDX-License-Identifier: Apache-2.0
"""EDUs of a transaction on their way to those who know what they mean.

Owns the table of handlers, the time each may take, that none of them harms another, and access control lists where an
EDU belongs to a room (server-server API, "Server Access Control Lists"). That an EDU's user is its origin's is for its
handler to check.

What an EDU is never harms the transaction. But where one that matters could not be taken in for want of the database or
of time, the sender must not be told that it arrived: it would never come again, and a key would be lost with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.defer import TimeoutError as TookTooLong

from federation.inbound.live_rooms import LiveRooms
from homeserver.errors import LimitExceeded
from storage.database import DatabaseFailure

log = logging.getLogger(__name__)

EduHandler = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""Given the origin and the content."""
EduHandlers = Mapping[str, EduHandler]

PATIENCE: Final = 10.0
"""Seconds for one EDU."""
PATIENCE_FOR_ALL: Final = 40.0
"""Seconds for all of a type in one transaction."""
LASTING: Final = frozenset({"m.direct_to_device", "m.device_list_update", "m.signing_key_update"})
"""Types of which a lost one is missed. To take one in twice does no harm."""
AGAIN_MS: Final = 5000
MOST_RECEIPT_ROOMS: Final = 500
"""Rooms of one receipts EDU that are looked at."""


class EduDispatcher:
    """Hands EDUs on: those of one type one after another, in their order; types side by side."""

    def __init__(self, reactor: Any, *, handlers: EduHandlers, rooms: LiveRooms) -> None:
        self._reactor = reactor
        self._handlers = handlers
        self._rooms = rooms

    async def dispatch(self, origin: str, edus: Sequence[object]) -> None:
        """Have them handled; unknown and malformed ones are dropped.

        Raises LimitExceeded where the transaction must come again for lasting ones.
        """
        by_type: dict[str, list[Mapping[str, Any]]] = {}
        for edu in edus:
            if type(edu) is not dict or type(edu.get("content")) is not dict:
                continue
            edu_type = edu.get("edu_type")
            if type(edu_type) is str and edu_type in self._handlers:
                by_type.setdefault(edu_type, []).append(edu["content"])
        handling = [
            Deferred.fromCoroutine(self._handle_all(origin, edu_type, contents))
            for edu_type, contents in by_type.items()
        ]
        try:
            complete = await gatherResults(handling, consumeErrors=True)
        except FirstError as error:  # they were cancelled
            error.subFailure.raiseException()
        if not all(complete):
            raise LimitExceeded(AGAIN_MS, "Not all of the transaction's EDUs could be taken in")

    async def _handle_all(self, origin: str, edu_type: str, contents: Sequence[Mapping[str, Any]]) -> bool:
        """Whether none is missed."""
        lasting, complete = edu_type in LASTING, True
        deadline = self._reactor.seconds() + PATIENCE_FOR_ALL
        for place, content in enumerate(contents):
            left = deadline - self._reactor.seconds()
            if left <= 0:
                log.warning("no time for %d %s EDUs of %s", len(contents) - place, edu_type, origin)
                return not lasting
            handling = Deferred.fromCoroutine(self._handle(origin, edu_type, content))
            try:
                await handling.addTimeout(min(PATIENCE, left), self._reactor)
            except TookTooLong:
                log.warning("an EDU took too long: %s of %s", edu_type, origin)
                complete = complete and not lasting
            except CancelledError:
                raise
            except DatabaseFailure as error:
                log.warning("an EDU could not be kept: %s of %s: %s", edu_type, origin, error)
                complete = complete and not lasting
            except Exception:
                log.exception("an EDU could not be handled: %s of %s", edu_type, origin)
        return complete

    async def _handle(self, origin: str, edu_type: str, content: Mapping[str, Any]) -> None:
        allowed: Mapping[str, Any] | None = content
        if edu_type == "m.typing":
            allowed = await self._typing_allowed(origin, content)
        elif edu_type == "m.receipt":
            allowed = await self._receipts_allowed(origin, content)
        if allowed:
            await self._handlers[edu_type](origin, allowed)

    async def _typing_allowed(self, origin: str, content: Mapping[str, Any]) -> Mapping[str, Any] | None:
        room_id = content.get("room_id")
        return content if type(room_id) is str and await self._open_to(origin, [room_id]) else None

    async def _receipts_allowed(self, origin: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
        allowed = await self._open_to(origin, list(content)[:MOST_RECEIPT_ROOMS])
        return {room_id: content[room_id] for room_id in allowed}

    async def _open_to(self, origin: str, room_ids: Sequence[str]) -> list[str]:
        """Those of the rooms that are known here and do not shut the server out."""
        rooms = await self._rooms.get_many(
            room_ids=[room_id for room_id in room_ids if "\0" not in room_id and len(room_id) <= 255]
        )
        return [room_id for room_id, room in rooms.items() if room.head.server_acl.allows(origin)]
