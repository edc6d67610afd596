# SPDX-License-Identifier: Apache-2.0
"""Rejecting invites and withdrawing knocks. Server-server API, "Leaving Rooms (Rejecting Invites)".

The user is out when they say so: other servers are told if they can be, and for no longer than somebody likes to wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from federation.client.answers import MembershipTemplate
from federation.membership.asking import candidates, first_to_help
from federation.membership.joining import spoken_version
from federation.membership.templates import Templates
from homeserver.errors import MatrixError
from homeserver.needs import Protocol
from homeserver.protocol.events import Event
from homeserver.rooms.arrival import OutOfBand
from homeserver.rooms.intake.incoming import Incoming
from homeserver.rooms.refusals import unknown_room

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds a user waits for other servers to take their leave; the attempt goes on without them."""
MOST_SERVERS = 5
GONE = frozenset(("leave", "ban"))


class LeaveCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def make_membership(
        self, destination: str, kind: Any, room_id: str, user_id: str, *, versions: Sequence[str] = ()
    ) -> MembershipTemplate: ...

    async def send_leave(
        self, destination: str, room_id: str, event_id: str, pdu: Mapping[str, Any]
    ) -> None: ...


class Scheduler(Protocol):
    """Calls later; the reactor does."""

    def callLater(self, delay: float, callable: Callable[..., object], /) -> Any: ...  # noqa: N802


class _Overtaken(Exception):
    """No server is to be told of the leave any more."""


class RemoteLeaving:
    """One per process."""

    def __init__(
        self,
        *,
        calls: LeaveCalls,
        out_of_band: OutOfBand,
        templates: Templates,
        server_name: str,
        scheduler: Scheduler,
    ) -> None:
        self._calls = calls
        self._out_of_band = out_of_band
        self._templates = templates
        self._server_name = server_name
        self._scheduler = scheduler

    async def leave(
        self, user_id: str, room_id: str, *, servers: Sequence[str], content: Mapping[str, Any]
    ) -> str | None:
        """As `RemoteRooms.leave`."""
        standing = await self._out_of_band.standing(room_id, user_id)
        if standing is None or not standing.is_at_the_door:
            return None
        rejected = standing.event_id
        told: Deferred[str | None] = Deferred()
        timer = self._scheduler.callLater(PATIENCE, lambda: _settle(told, None))
        attempt = Deferred.fromCoroutine(self._tell(user_id, room_id, servers, content, rejected))

        def ended(result: str | Failure) -> None:
            if isinstance(result, Failure):
                logger.info("the leave of %s from %s was taken by nobody: %s", user_id, room_id, result.value)
                if not isinstance(result.value, (MatrixError, _Overtaken)):
                    logger.error("telling a leave failed", exc_info=result.value)
            if timer.active():
                timer.cancel()
            _settle(told, None if isinstance(result, Failure) else result)

        attempt.addBoth(ended)
        event_id = await told
        if event_id is not None:
            return event_id
        return await self._out_of_band.withdraw(room_id, user_id, content, rejected)

    async def _tell(
        self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any], rejected: str
    ) -> str:
        return await first_to_help(
            f"leaving {room_id}",
            candidates(self._server_name, servers)[:MOST_SERVERS],
            lambda server: self._leave_via(server, user_id, room_id, content, rejected),
            nobody=unknown_room(room_id),
        )

    async def _leave_via(
        self, server: str, user_id: str, room_id: str, content: Mapping[str, Any], rejected: str
    ) -> str:
        template = await self._calls.make_membership(server, "leave", room_id, user_id)
        version = spoken_version(template)
        leave = self._templates.rebuild(
            server, template, version, room_id=room_id, user_id=user_id, content=content
        )
        await self._check_wanted(leave.event, rejected)
        await self._calls.send_leave(server, room_id, leave.event.event_id, leave.event.pdu)
        await self._out_of_band.left(version, Incoming(leave.event, leave.json_bytes.decode()), rejected)
        return leave.event.event_id

    async def _check_wanted(self, leave: Event, rejected: str) -> None:
        """Raise _Overtaken where the leave would end something that came later: a new invite, or a stay.

        The other server may have heard of it first (what a leave ends it cites, in all room versions), or this one.
        """
        if rejected not in leave.auth_event_ids:
            raise _Overtaken("it would end something else")
        standing = await self._out_of_band.standing(leave.room_id, leave.sender)
        if standing is None or (standing.event_id != rejected and standing.membership not in GONE):
            raise _Overtaken("the user is not out any more")


def _settle(deferred: Deferred[str | None], value: str | None) -> None:
    """The first to say so is believed."""
    if not deferred.called:
        deferred.callback(value)
