# SPDX-License-Identifier: Apache-2.0
"""Every endpoint of calls, put together for the composition root."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from homeserver.calls.history.history import CallHistory
from homeserver.calls.turn import TurnCredentials
from homeserver.clientapi import call_history, rtc
from homeserver.clientapi.call_history import CallHistoryEndpoints
from homeserver.clientapi.rtc import RtcEndpoints
from homeserver.clientapi.voip import VoipEndpoints
from homeserver.config.sections import Config
from homeserver.web.routing import Route

if TYPE_CHECKING:
    from homeserver.calls.rtc.services import GroupCalls


def unstable_flags(config: Config) -> tuple[str, ...]:
    """What `/versions` may promise of calls, as configured."""
    return (call_history.FLAG,) if config.rtc.livekit_url is None else (call_history.FLAG, rtc.FLAG)


def call_routes(
    config: Config, *, turn: TurnCredentials | None, group: GroupCalls | None, history: CallHistory
) -> tuple[Route, ...]:
    """The endpoints of calls. Without an SFU those of group calls do not exist."""
    voip = VoipEndpoints(turn, allow_guests=config.turn.allow_guests, clock=time.time)
    always = (*voip.routes(), *CallHistoryEndpoints(history).routes())
    if group is None:
        return always
    from homeserver.clientapi.livekit import LiveKitEndpoints

    livekit = LiveKitEndpoints(group.admission, group.leaves, group.tokens)
    return (*always, *RtcEndpoints(config).routes(), *livekit.routes())
