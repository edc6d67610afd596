# SPDX-License-Identifier: Apache-2.0
"""What other servers answer, as far as its shape was checked: `calls` makes these values.

Events in them are unchecked: they go through `federation.inbound.reading` before anybody believes a word of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

Pdu = dict[str, Any]


class MembershipTemplate(Struct, frozen=True):
    """An event to be rebuilt and signed, never signed as it is."""

    room_version: str
    """Named by the answer; "1" where it names none."""
    event: Pdu


class JoinAnswer(Struct, frozen=True):
    """What `send_join` gives."""

    state: Sequence[Pdu]
    auth_chain: Sequence[Pdu]
    event: Pdu | None
    """The join with the resident server's signature, where it gives one."""
    members_omitted: bool
    servers_in_room: Sequence[str] | None
    """Those with joined members; there if members were omitted."""


class RoomState(Struct, frozen=True):
    """The state before an event."""

    pdus: Sequence[Pdu]
    auth_chain: Sequence[Pdu]


class StateIds(Struct, frozen=True):
    """The state before an event, by event id."""

    pdu_ids: Sequence[str]
    auth_chain_ids: Sequence[str]


class NearestEvent(Struct, frozen=True):
    """The event nearest to a time."""

    event_id: str
    origin_server_ts: int


class AliasAnswer(Struct, frozen=True):
    """Where an alias leads."""

    room_id: str
    servers: Sequence[str]


class DeviceListAnswer(Struct, frozen=True):
    """A user's devices. Keys are unchecked."""

    user_id: str
    stream_id: int
    devices: Sequence[Mapping[str, Any]]
    master_key: Mapping[str, Any] | None
    self_signing_key: Mapping[str, Any] | None
