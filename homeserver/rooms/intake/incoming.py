# SPDX-License-Identifier: Apache-2.0
"""An event from outside on its way into a room, and what became of it."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto

from msgspec import Struct

from homeserver.protocol.events import Event
from homeserver.protocol.policy_servers import PolicyServer


class Asked(Struct, frozen=True):
    """That a room's policy server was asked about an event that came without its signature."""

    policy_server: PolicyServer
    refusal: str = ""
    """Why it has none; empty: the event bears it now."""


class Incoming(Struct, frozen=True):
    """An event whose form, signatures and hash were checked (a wrong hash left its redacted form)."""

    event: Event
    json: str
    """Canonical JSON of the PDU, without `unsigned`."""
    state_before: Collection[str] | None = None
    """Ids of the state before it, all stored here: for an event whose previous events cannot be had."""
    asked: Asked | None = None


class Outcome(Enum):
    """What became of an event."""

    ACCEPTED = auto()
    SOFT_FAILED = auto()
    """Stored, but not allowed by the present state, or not recommended by the room's policy server: shown to nobody
    and built on by nothing of ours."""
    REJECTED = auto()
    """Stored as rejected for good, or not even that where it cannot be stored."""
    KNOWN = auto()
    """Was there before."""
    MISSING = auto()
    """Not stored: other events must come first."""


class Verdict(Struct, frozen=True):
    """The outcome for one event."""

    event_id: str
    outcome: Outcome
    reason: str = ""
    missing_prev: Collection[str] = ()
    missing_auth: Collection[str] = ()
    again: bool = False
    """It was stored already, without its place; as it was then, and not as it came now."""
