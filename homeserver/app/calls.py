# SPDX-License-Identifier: Apache-2.0
"""What serves calls, put together. Without configuration there is nothing of it."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.calls.turn import TurnCredentials, turn_credentials
from homeserver.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Each None where it is not configured."""

    turn: TurnCredentials | None


def build_calls(config: Config) -> Calls:
    """As configured. Raises StartRefused if a file of secrets cannot be read."""
    return Calls(turn=turn_credentials(config.turn))
