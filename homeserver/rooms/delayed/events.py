# SPDX-License-Identifier: Apache-2.0
"""Scheduling events, and managing those that are scheduled (MSC4140).

A delay id is a capability: whoever has it may restart, cancel and send that one event, such as the call service that
sees a device's connection break. What has become of finalised events is told for a week, of the newest hundred.

A delayed state event is cancelled when another user sets the same state after it was scheduled; that is looked at when
it is restarted, read or due, so that nobody's state event pays for it. The sender's own changes do not cancel it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from homeserver.errors import Forbidden, InvalidParam, LimitExceeded, NotFound, TooLarge, Unknown
from homeserver.needs import Protocol
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.delayed.dispatch import UNSTABLE, cancelled_by_state, error_object
from homeserver.rooms.engine import Room, SendTransaction
from storage.delayed_events import DelayedEvent, DelayedEventStore, Full, NewDelayedEvent

KEPT_MS: Final = 7 * 86_400_000
"""How long a finalised event is told of."""
KEPT: Final = 100
"""How many of a user's are."""
MAX_CONTENT_BYTES: Final = 65_536
MAX_NAME_BYTES: Final = 255
MOST_IDS: Final = 100
"""Delay ids that one question may name."""


class Gate(Protocol):
    """Lets members into rooms; `rooms.access.RoomGate` is one."""

    async def access_joined_room(self, user_id: str, room_id: str) -> Room: ...


class Timer(Protocol):
    """Sends what is due; `rooms.delayed.timer.DelayTimer` is one."""

    def expect(self, delay_ms: int) -> None:
        """Something is due in so long."""

    async def send_now(self, delay_id: str) -> bool:
        """Send an event by somebody's wish; False if it is not to be had. Raises why it can't be sent."""


class Limits(Struct, frozen=True, kw_only=True):
    """What users may schedule."""

    max_delay_ms: int
    max_scheduled: int
    """Of one user, at once; 0: nobody may schedule anything."""


class DelayedEvents:
    """One per process."""

    def __init__(
        self,
        *,
        store: DelayedEventStore,
        gate: Gate,
        timer: Timer,
        limits: Limits,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        self._store = store
        self._gate = gate
        self._timer = timer
        self._new_id = new_id
        self.limits = limits

    async def schedule(
        self,
        actor: Actor,
        room_id: str,
        event_type: str,
        content: Mapping[str, Any],
        *,
        delay_ms: int,
        state_key: str | None = None,
        transaction: SendTransaction | None = None,
    ) -> str:
        """Have an event sent in `delay_ms`; its delay id, which is the first one's for a transaction made before.

        The sender must be in the room; all else is judged when it is sent. Raises Forbidden, UserSuspended,
        InvalidParam, Unknown for too long a delay, TooLarge, CanonicalJsonError, LimitExceeded.
        """
        check_not_suspended(actor)
        limits = self.limits
        if limits.max_scheduled == 0:
            raise Forbidden("Delayed events are not allowed on this server")
        if delay_ms < 1:
            raise InvalidParam("The delay must be positive")
        if delay_ms > limits.max_delay_ms:
            raise _too_long(limits.max_delay_ms)
        _check_name(event_type)
        if state_key is not None:
            _check_name(state_key)
        encoded = encode_canonical(content)
        if len(encoded) > MAX_CONTENT_BYTES:
            raise TooLarge("The event is too large")
        await self._gate.access_joined_room(actor.user_id, room_id)
        added = await self._store.add(
            NewDelayedEvent(
                delay_id=self._new_id(),
                user_id=actor.user_id,
                transaction=None if transaction is None else transaction.key,
                room_id=room_id,
                type=event_type,
                state_key=state_key,
                content=encoded.decode(),
                delay_ms=delay_ms,
            ),
            most=limits.max_scheduled,
            keep=KEPT,
        )
        if isinstance(added, Full):
            raise LimitExceeded(
                max(1000, added.wait_ms), "The maximum number of delayed events has been reached"
            )
        self._timer.expect(delay_ms)
        return added

    async def restart(self, delay_id: str) -> None:
        """Begin the delay anew. Raises NotFound if the event is no longer scheduled."""
        delay_ms = await self._store.restart(delay_id)
        if delay_ms is None:
            raise _gone()
        self._timer.expect(delay_ms)

    async def cancel(self, delay_id: str) -> None:
        """Never send it. Repeating that is no error; NotFound for one that was sent or is not known."""
        if await self._store.cancel(delay_id):
            return
        event = await self._store.get(delay_id)
        if event is None or event.finalised_ts is None or event.event_id is not None:
            raise _gone()

    async def send(self, delay_id: str) -> None:
        """Send it now. Repeating that is no error; NotFound for one that was cancelled or is not known.

        Raises why it can't be sent, in which case it stays scheduled.
        """
        if await self._timer.send_now(delay_id):
            return
        event = await self._store.get(delay_id)
        # One that is neither here nor there is being sent this very moment by another process.
        if event is None or (event.finalised_ts is not None and event.event_id is None):
            raise _gone()

    async def scheduled(self, user_id: str, delay_ids: Sequence[str] | None = None) -> list[DelayedEvent]:
        """The user's scheduled events, all or those, the next first. Raises InvalidParam for too many ids."""
        _check_ids(delay_ids)
        await self._settle(user_id)
        return await self._store.scheduled(user_id, delay_ids)

    async def finalised(self, user_id: str, delay_ids: Sequence[str] | None = None) -> list[DelayedEvent]:
        """What became of the user's events, all or those, the newest first. Raises InvalidParam for too many ids."""
        _check_ids(delay_ids)
        await self._settle(user_id)
        return await self._store.finalised(user_id, delay_ids, KEPT)

    async def get(self, user_id: str, delay_id: str) -> DelayedEvent:
        """An event of the user's, scheduled or finalised. Raises NotFound, for other users' too."""
        await self._settle(user_id)
        event = await self._store.get(delay_id)
        if event is None or event.user_id != user_id:
            raise _gone()
        return event

    async def _settle(self, user_id: str) -> None:
        await self._store.overtake(user_id, error_object(cancelled_by_state()))


class DelayedDeparture:
    """What an account had scheduled ends with it; a log-out ends none of it."""

    def __init__(self, store: DelayedEventStore) -> None:
        self._store = store

    async def depart(self, user_id: str, *, erase: bool) -> None:
        """Drop it all."""
        await self._store.forget_user(user_id)


def _gone() -> NotFound:
    return NotFound("There is no such delayed event, or it was sent or cancelled")


def _too_long(max_delay_ms: int) -> Unknown:
    return Unknown(
        "The requested delay exceeds the allowed maximum",
        **{UNSTABLE + "errcode": "M_MAX_DELAY_EXCEEDED", UNSTABLE + "max_delay": max_delay_ms},
    )


def _check_name(text: str) -> None:
    """Raise InvalidParam for a type or state key that no event can have."""
    if "\0" in text or len(text.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidParam("The event's type or state key is too long or cannot be stored")


def _check_ids(delay_ids: Sequence[str] | None) -> None:
    if delay_ids is not None and len(delay_ids) > MOST_IDS:
        raise InvalidParam(f"At most {MOST_IDS} delay ids can be asked for")
