# SPDX-License-Identifier: Apache-2.0
"""Ends people's part in group calls when their connection to LiveKit ends (MSC4195, delegated delayed leave events).

A client hands over the delayed event that would take it out of the call. While LiveKit says that the participant is
connected the event is restarted, when it says that it no longer is the event is sent. LiveKit is asked, now and then,
and at once when a webhook tells of a change: so no webhook needs to arrive, nor to be believed. Where LiveKit does not
answer nobody is taken out of a call.

Rows in Postgres, taken by any process, so that a crash here ends no call either. Does not own the events themselves
(`rooms/delayed`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, TimeoutError

from homeserver.errors import Forbidden, LimitExceeded, MatrixError, NotFound, RemoteServerFailed
from homeserver.needs import Protocol
from storage.delegated_leaves import DelegatedLeave, DelegatedLeaveStore, Kept

logger = logging.getLogger(__name__)

CHECK_MS: Final = 30_000
"""How often LiveKit is asked about a participant, at the least."""
WAIT_MS: Final = 3_600_000
"""How long a participant may take to connect, at the most; it is never longer than the event's own delay."""
AT_ONCE: Final = 20
"""Participants of one round."""
LOOK_SECONDS: Final = 2.0
"""How often a process looks whether there is something to do."""
_HOLD_MS: Final = 15_000
"""How long a process that dies in the middle of a look holds it up. To be looked at twice does no harm."""
_SOON_MS: Final = 1_000


class Event(Protocol):
    """What is needed of a delayed event."""

    @property
    def room_id(self) -> str: ...
    @property
    def delay_ms(self) -> int: ...
    @property
    def finalised_ts(self) -> int | None: ...


class DelayedEvents(Protocol):
    """What is needed of `rooms.delayed.events.DelayedEvents`."""

    async def get(self, user_id: str, delay_id: str) -> Event: ...
    async def restart(self, delay_id: str) -> None: ...
    async def send(self, delay_id: str) -> None: ...


class Participants(Protocol):
    """What is needed of `sfu.LiveKitRooms`."""

    async def holds(self, room: str, identity: str) -> bool: ...


class Verdict(Enum):
    """What becomes of an event after a look."""

    WAIT = auto()
    RESTART = auto()
    SEND = auto()
    FORGET = auto()


def judge(leave: DelegatedLeave, *, present: bool | None) -> Verdict:
    """`present` is None where LiveKit did not say."""
    if present or (present is None and leave.connected):
        # With room for two failures before it would fire.
        return Verdict.RESTART if leave.unrestarted_ms * 3 >= leave.delay_ms else Verdict.WAIT
    if leave.connected:
        return Verdict.SEND
    return Verdict.FORGET if leave.waited_ms >= min(leave.delay_ms, WAIT_MS) else Verdict.WAIT


class DelegatedLeaves:
    """Runs between `start` and `stop`."""

    def __init__(
        self,
        *,
        scheduler: Any,
        store: DelegatedLeaveStore,
        delayed: DelayedEvents,
        participants: Participants,
    ) -> None:
        """`scheduler` is the reactor, or a clock like it."""
        self._scheduler = scheduler
        self._store = store
        self._delayed = delayed
        self._participants = participants
        self._running = False
        self._call: Any = None
        self._round: Deferred[None] | None = None

    def start(self) -> None:
        """Take up what was handed over before."""
        self._running = True
        self._set(0.0)

    async def stop(self) -> None:
        """Take up nothing more, and wait for the round that is under way."""
        self._running = False
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._round is not None:
            await self._round

    async def check(self, user_id: str, room_id: str, delay_id: str) -> int:
        """The delay of a user's event that can be handed over. Raises NotFound, also for others' and finished ones."""
        event = await self._delayed.get(user_id, delay_id)
        if event.finalised_ts is not None or event.room_id != room_id:
            raise NotFound("There is no such delayed event in that room")
        return event.delay_ms

    async def take_over(self, livekit_room: str, identity: str, delay_id: str, delay_ms: int) -> None:
        """Look after an event that was checked."""
        await self._store.put(livekit_room, identity, delay_id, delay_ms)

    async def heard(self, livekit_room: str, identity: str, *, came: bool) -> None:
        """LiveKit told of a participant that came or went.

        Who went may be whoever had the same identity before: it does not show that this one was ever there.
        """
        if await self._store.hasten(livekit_room, identity, came=came) and self._round is None:
            self._set(0.0)

    async def look(self) -> int:
        """One round; how many participants it was about."""
        leaves = await self._store.take(AT_ONCE, _HOLD_MS)
        if not leaves:
            return 0
        kept: list[Kept] = []
        dropped: list[DelegatedLeave] = []
        await DeferredList(
            [Deferred.fromCoroutine(self._look_at(leave, kept.append, dropped.append)) for leave in leaves],
            consumeErrors=True,
        )
        if kept:
            await self._store.keep(kept)
        if dropped:
            await self._store.drop(dropped)
        return len(leaves)

    async def _look_at(
        self,
        leave: DelegatedLeave,
        keep: Callable[[Kept], object],
        drop: Callable[[DelegatedLeave], object],
    ) -> None:
        present = await self._present(leave)
        verdict = judge(leave, present=present)
        connected = leave.connected or bool(present)
        try:
            if verdict is Verdict.SEND:
                await self._delayed.send(leave.delay_id)
            elif verdict is Verdict.RESTART:
                await self._delayed.restart(leave.delay_id)
        except (NotFound, Forbidden):
            verdict = Verdict.FORGET  # sent or cancelled meanwhile, or no longer this user's to send
        except (RemoteServerFailed, LimitExceeded):
            keep(Kept(leave, connected, restarted=False, pause_ms=_SOON_MS))
            return
        except MatrixError as error:
            logger.warning("the end of a part in a call cannot be sent: %s", error)
            verdict = Verdict.FORGET
        except Exception:
            logger.exception("a part in a call could not be looked after; it is tried again")
            keep(Kept(leave, connected, restarted=False, pause_ms=_SOON_MS))
            return
        if verdict in (Verdict.SEND, Verdict.FORGET):
            drop(leave)
            return
        pause = min(CHECK_MS, leave.delay_ms // 3) if connected else _SOON_MS * 2
        keep(Kept(leave, connected, restarted=verdict is Verdict.RESTART, pause_ms=max(_SOON_MS, pause)))

    async def _present(self, leave: DelegatedLeave) -> bool | None:
        """Whether LiveKit says so; None where it does not say while there is still time to restart the event."""
        asking = Deferred.fromCoroutine(self._participants.holds(leave.livekit_room, leave.identity))
        asking.addTimeout(max(1.0, leave.delay_ms / 4000), self._scheduler)
        try:
            return await asking
        except (RemoteServerFailed, TimeoutError):
            return None

    def _set(self, seconds: float) -> None:
        if not self._running:
            return
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = self._scheduler.callLater(seconds, self._begin)

    def _begin(self) -> None:
        if self._round is None:
            running = Deferred.fromCoroutine(self._go())
            if not running.called:  # a database that refuses at once has ended it already
                self._round = running

    async def _go(self) -> None:
        full = False
        try:
            full = await self.look() >= AT_ONCE
        except Exception:
            logger.exception("delegated leave events could not be looked after")
        self._round = None
        self._set(0.0 if full else LOOK_SECONDS)
