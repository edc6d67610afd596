# SPDX-License-Identifier: Apache-2.0
"""The echo account at work: in one of the processes on a database, by a lease, waiting for news as a client does.

Owns the lease and the long-poll. A process that dies leaves the lease to lapse; whoever takes it then reads on from
where the account had read, and first ends the calls that were left.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from homeserver.calls.echo import signalling
from homeserver.calls.echo.calls import EchoCalls
from homeserver.calls.echo.chats import ENCRYPTION, MEMBER, EchoChats
from homeserver.needs import Protocol
from homeserver.protocol.filters import SyncFilter
from homeserver.protocol.tokens import SyncToken
from homeserver.sync.long_poll import Ending
from homeserver.sync.request import SyncRequest, SyncResponse
from storage.echo import EchoStore

logger = logging.getLogger(__name__)

LEASE: Final = 15.0
RENEWAL: Final = 5.0
"""Seconds. Two renewals may fail before another process takes over."""
PAUSE: Final = 1.0
"""Seconds until the next attempt when something failed."""
WAIT: Final = 300.0

_NOTHING: Final = {"not_types": ["*"]}
_EVENTS: Final = [*signalling.TYPES, MEMBER, ENCRYPTION]
_FILTER: Final = SyncFilter.parse(
    {
        "presence": _NOTHING,
        "account_data": _NOTHING,
        "room": {
            "timeline": {"types": _EVENTS, "limit": 100},
            "state": _NOTHING,
            "ephemeral": _NOTHING,
            "account_data": _NOTHING,
        },
    }
)


class LongPoll(Protocol):
    """`homeserver.sync.long_poll.LongPoll`."""

    async def respond(self, request: SyncRequest, timeout: float, ending: Ending) -> SyncResponse: ...


class Positions(Protocol):
    @property
    def position(self) -> int: ...


class _Bell:
    """Ends a wait."""

    def __init__(self) -> None:
        self.fired = False
        self._callback: Callable[[], object] | None = None

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        if self.fired:
            callback()
        self._callback = callback
        return self._unsubscribe

    def _unsubscribe(self) -> None:
        self._callback = None

    def ring(self) -> None:
        self.fired = True
        if self._callback is not None:
            self._callback()


class Echo:
    """One per process; at any time one of them all is the account."""

    def __init__(
        self,
        reactor: Any,
        *,
        own: str,
        store: EchoStore,
        stream: Positions,
        long_poll: LongPoll,
        chats: EchoChats,
        calls: EchoCalls,
        alone: bool,
    ) -> None:
        """`alone`: no other process can be on the database."""
        self._reactor = reactor
        self._own = own
        self._store = store
        self._stream = stream
        self._long_poll = long_poll
        self._chats = chats
        self._calls = calls
        self._alone = alone
        self._running: Deferred[None] | None = None
        self._sleeping: Deferred[None] | None = None
        self._bell = _Bell()
        self._stopping = False
        self._since = SyncToken(0)

    def start(self) -> None:
        """Try to be the account from now on."""
        self._running = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        """Hang up, say so, and leave the account to others."""
        self._stopping = True
        self._bell.ring()
        if self._sleeping is not None:
            self._sleeping.cancel()
        if self._running is not None:
            await self._running
        await self._calls.close()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                position = await self._store.take(LEASE, self._stream.position, alone=self._alone)
                if position is not None:
                    await self._be_the_account(position)
                    continue
            except Exception:
                logger.exception("the echo account failed; it goes on in a moment")
                await self._sleep(PAUSE)
                continue
            await self._sleep(RENEWAL)

    async def _be_the_account(self, position: int) -> None:
        self._bell = _Bell()
        self._since = SyncToken(position)
        keeping = Deferred.fromCoroutine(self._keep())
        try:
            ended = set()
            for call in await self._store.left():
                ended.add((call.room_id, call.call_id))
                await self._calls.was_left(call)
            while not self._stopping and not self._bell.fired:
                await self._hear(ended)
                ended = set()
        finally:
            await self._calls.stop()
            keeping.cancel()
            if self._stopping:
                await self._store.renew(0, self._since.position)

    async def _keep(self) -> None:
        """Renew the lease for as long as it is ours."""
        try:
            while True:
                await deferLater(self._reactor, RENEWAL)
                if not await self._store.renew(LEASE, self._since.position):
                    logger.warning("another process is the echo account now")
                    break
        except CancelledError:
            return
        except Exception:
            logger.exception("the echo account's lease could not be renewed")
        self._bell.ring()

    async def _sleep(self, seconds: float) -> None:
        if self._stopping:
            return
        self._sleeping = deferLater(self._reactor, seconds)
        with contextlib.suppress(CancelledError):
            await self._sleeping
        self._sleeping = None

    # News.

    async def _hear(self, ended: set[tuple[str, str]]) -> None:
        """One long-poll, and what came with it. `ended`: calls that are not to be answered."""
        request = SyncRequest(user_id=self._own, device_id=None, since=self._since, filter=_FILTER)
        response = await self._long_poll.respond(request, WAIT, self._bell)
        if response.has_news:
            rooms = orjson.loads(response.body).get("rooms", {})
            for room_id, invite in rooms.get("invite", {}).items():
                await _attempt(self._chats.invited(room_id, invite["invite_state"]["events"]))
            for room_id, joined in rooms.get("join", {}).items():
                await _attempt(self._take(room_id, joined["timeline"]["events"], ended))
            for room_id in rooms.get("leave", {}):
                self._calls.lost(room_id)
        self._since = response.next_batch

    async def _take(self, room_id: str, events: list[Mapping[str, Any]], ended: set[tuple[str, str]]) -> None:
        """Events of a room, all looked at before a call is answered: it may be over already."""
        over = ended | {(room_id, _call_id(event)) for event in events if self._ends_it(event)}
        moved = warn = False
        for event in events:
            kind = event["type"]
            if kind == signalling.INVITE:
                if event["sender"] != self._own and (room_id, _call_id(event)) not in over:
                    invite = signalling.invite_of(room_id, event, self._own)
                    if invite is not None:
                        await self._calls.invited(invite)
            elif kind == MEMBER:
                moved = moved or event["state_key"] != self._own
                if event["content"].get("membership") != "join":
                    self._calls.left(room_id, event["state_key"])
            elif kind == ENCRYPTION:
                warn = "state_key" in event
            elif event["sender"] != self._own:
                self._calls.happened(room_id, event)
        if moved or warn:
            # Whoever joins an encrypted room warns at once; the room's beginning comes with the join.
            joined = any(_is_join_of(event, self._own) for event in events)
            await self._chats.look(room_id, warn=warn and not joined)

    def _ends_it(self, event: Mapping[str, Any]) -> bool:
        if event["sender"] == self._own:
            return event["type"] in (signalling.ANSWER, signalling.REJECT, signalling.HANGUP)
        return bool(event["type"] == signalling.HANGUP)


async def _attempt(work: Awaitable[None]) -> None:
    """What one room does to us must not hold up the others, nor be tried for ever."""
    try:
        await work
    except Exception:
        logger.exception("the echo account could not take the news of a room")


def _call_id(event: Mapping[str, Any]) -> str:
    content = event["content"]
    found = content.get("call_id") if isinstance(content, Mapping) else None
    return found if isinstance(found, str) else ""


def _is_join_of(event: Mapping[str, Any], user_id: str) -> bool:
    if event["type"] != MEMBER or event.get("state_key") != user_id:
        return False
    return bool(event["content"].get("membership") == "join")
