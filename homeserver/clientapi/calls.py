# SPDX-License-Identifier: Apache-2.0
"""Every endpoint of calls, put together for the composition root."""

import time

from homeserver.calls.turn import TurnCredentials
from homeserver.clientapi.voip import VoipEndpoints
from homeserver.config.sections import Config
from homeserver.web.routing import Route


def call_routes(config: Config, *, turn: TurnCredentials | None) -> tuple[Route, ...]:
    """The endpoints of calls; what is not configured answers as if it did not exist."""
    return VoipEndpoints(turn, allow_guests=config.turn.allow_guests, clock=time.time).routes()
