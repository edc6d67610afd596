# SPDX-License-Identifier: Apache-2.0
"""Delayed events, put together for the composition root."""

from __future__ import annotations

from msgspec import Struct

from homeserver.rooms.delayed.dispatch import Dispatch, Sending, SettingState, Users
from homeserver.rooms.delayed.events import DelayedEvents, Gate, Limits
from homeserver.rooms.delayed.timer import DelayTimer, Scheduler
from storage.delayed_events import DelayedEventStore


class DelayedServices(Struct, frozen=True, kw_only=True):
    """What endpoints call, and what runs by itself."""

    events: DelayedEvents
    timer: DelayTimer


def build_delayed_services(
    *,
    reactor: Scheduler,
    store: DelayedEventStore,
    gate: Gate,
    sending: Sending,
    setting_state: SettingState,
    users: Users,
    limits: Limits,
) -> DelayedServices:
    """Build them; nothing runs before the timer is started."""
    dispatch = Dispatch(sending=sending, setting_state=setting_state, users=users)
    timer = DelayTimer(reactor=reactor, store=store, dispatch=dispatch)
    return DelayedServices(
        events=DelayedEvents(store=store, gate=gate, timer=timer, limits=limits), timer=timer
    )
