# SPDX-License-Identifier: Apache-2.0
"""The table of room versions: which rules hold in which room.

Owns the features by which versions differ, one explicit field each, so that no other module compares version
numbers. Does not own the rules themselves: redaction, authorization and state resolution read their switch
here. Specification: https://spec.matrix.org/latest/rooms/
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from homeserver.protocol.errors import UnsupportedRoomVersionError


class EventIdFormat(Enum):
    """How an event gets its id."""

    #: ``$opaque:domain``, chosen by the sending server and carried in the PDU (versions 1 and 2).
    SERVER_CHOSEN = "server-chosen"
    #: ``$`` and the reference hash in standard unpadded Base64 (version 3).
    HASH_BASE64 = "hash-base64"
    #: ``$`` and the reference hash in URL-safe unpadded Base64 (versions 4 and later).
    HASH_URL_SAFE_BASE64 = "hash-url-safe-base64"


class RedactionRules(Enum):
    """Which keys survive a redaction; each member is named for the version that introduced the set."""

    V1 = "1"
    V6 = "6"
    V8 = "8"
    V9 = "9"
    V11 = "11"


class StateResolution(Enum):
    """The algorithm that merges the states of several branches."""

    V1 = "1"
    V2 = "2"
    #: Version 2 started from an empty state and widened by the conflicted state subgraph (MSC4297).
    V2_1 = "2.1"


class RoomVersion(Struct, frozen=True, kw_only=True):
    """One room version as a list of features. ``str(version)`` is its identifier."""

    identifier: str
    #: Whether the specification calls the version stable (as opposed to experimental).
    stable: bool = True
    event_id_format: EventIdFormat
    redaction_rules: RedactionRules
    state_resolution: StateResolution
    #: Events must be canonical JSON: no floats, integers within ±(2^53 − 1) (6+).
    strict_canonical_json: bool
    #: A signing key counts only if valid at the event's ``origin_server_ts`` (5+).
    enforces_key_validity: bool
    #: ``m.room.aliases`` has an authorization rule and a redaction rule of its own (1–5).
    special_aliases_auth: bool
    #: ``m.room.redaction`` is authorized by redact level or by equal event-id domains (1–2).
    redaction_auth_rule: bool
    #: Changes of ``notifications`` in power levels are limited by the sender's level (6+).
    limits_notification_levels: bool
    #: Membership and join rule ``knock`` (7+).
    knock: bool
    #: Join rule ``restricted`` (8+).
    restricted_joins: bool
    #: Join rule ``knock_restricted`` (10+).
    knock_restricted: bool
    #: Power levels must be integers; before, strings (and in versions 1–5 floats) count as well (10+).
    integer_power_levels: bool
    #: ``m.room.create`` names the creator in its content, beside ``sender`` (1–10).
    create_has_creator: bool
    #: ``redacts`` of a redaction is in ``content`` rather than at the top level (11+).
    redacts_in_content: bool
    #: The room id is the create event's id under the sigil ``!``; the create event has no ``room_id`` (12+).
    room_id_is_create_hash: bool
    #: Creators (``sender`` and ``additional_creators`` of the create event) have infinite power (12+).
    privileged_creators: bool

    def __str__(self) -> str:
        return self.identifier

    @property
    def chooses_event_ids(self) -> bool:
        """Whether the sender chooses event ids, and references are ``[event id, hashes]`` pairs (1–2)."""
        return self.event_id_format is EventIdFormat.SERVER_CHOSEN

    @property
    def create_in_auth_events(self) -> bool:
        """Whether auth events name the create event; in version 12 the room id already implies it."""
        return not self.room_id_is_create_hash

    @property
    def float_power_levels(self) -> bool:
        """Whether power levels may be floats, truncated when read (1–5)."""
        return not self.strict_canonical_json


_V1: Final = RoomVersion(
    identifier="1",
    event_id_format=EventIdFormat.SERVER_CHOSEN,
    redaction_rules=RedactionRules.V1,
    state_resolution=StateResolution.V1,
    strict_canonical_json=False,
    enforces_key_validity=False,
    special_aliases_auth=True,
    redaction_auth_rule=True,
    limits_notification_levels=False,
    knock=False,
    restricted_joins=False,
    knock_restricted=False,
    integer_power_levels=False,
    create_has_creator=True,
    redacts_in_content=False,
    room_id_is_create_hash=False,
    privileged_creators=False,
)
_V2: Final = replace(_V1, identifier="2", state_resolution=StateResolution.V2)
_V3: Final = replace(
    _V2, identifier="3", event_id_format=EventIdFormat.HASH_BASE64, redaction_auth_rule=False
)
_V4: Final = replace(_V3, identifier="4", event_id_format=EventIdFormat.HASH_URL_SAFE_BASE64)
_V5: Final = replace(_V4, identifier="5", enforces_key_validity=True)
_V6: Final = replace(
    _V5,
    identifier="6",
    strict_canonical_json=True,
    special_aliases_auth=False,
    limits_notification_levels=True,
    redaction_rules=RedactionRules.V6,
)
_V7: Final = replace(_V6, identifier="7", knock=True)
_V8: Final = replace(_V7, identifier="8", restricted_joins=True, redaction_rules=RedactionRules.V8)
_V9: Final = replace(_V8, identifier="9", redaction_rules=RedactionRules.V9)
_V10: Final = replace(_V9, identifier="10", knock_restricted=True, integer_power_levels=True)
_V11: Final = replace(
    _V10,
    identifier="11",
    create_has_creator=False,
    redacts_in_content=True,
    redaction_rules=RedactionRules.V11,
)
_V12: Final = replace(
    _V11,
    identifier="12",
    state_resolution=StateResolution.V2_1,
    room_id_is_create_hash=True,
    privileged_creators=True,
)

#: Every room version this server takes part in, by identifier, in order.
ROOM_VERSIONS: Final[Mapping[str, RoomVersion]] = MappingProxyType(
    {v.identifier: v for v in (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9, _V10, _V11, _V12)}
)

#: Identifiers of the versions the specification calls stable.
STABLE_ROOM_VERSIONS: Final[tuple[str, ...]] = tuple(
    version.identifier for version in ROOM_VERSIONS.values() if version.stable
)

#: The version that the specification asks servers to create rooms with.
DEFAULT_ROOM_VERSION: Final = "12"

#: The version of a room whose create event names none (``m.room.create``, ``room_version``).
IMPLIED_ROOM_VERSION: Final = "1"


def room_version(identifier: str) -> RoomVersion:
    """Look a version up by identifier.

    Raises UnsupportedRoomVersionError if this server does not implement it.
    """
    version = ROOM_VERSIONS.get(identifier)
    if version is None:
        raise UnsupportedRoomVersionError(f"unsupported room version {identifier[:32]!r}")
    return version
