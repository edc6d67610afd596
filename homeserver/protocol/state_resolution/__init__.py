# SPDX-License-Identifier: Apache-2.0
"""State resolution: one state for a room out of the states of several branches.

Owns versions 1, 2 and 2.1 of the algorithm. Does not own where events come from: an `EventSource` answers for
them. The result depends on the room's events and the set of states, not on the order of either.
"""

from collections.abc import Sequence

from homeserver.protocol.room_versions import RoomVersion, StateResolution
from homeserver.protocol.state_resolution import version1, version2
from homeserver.protocol.state_resolution.conflicts import StateIds, StateKey, separate
from homeserver.protocol.state_resolution.source import EventsInMemory, EventSource

__all__ = ["EventSource", "EventsInMemory", "StateIds", "StateKey", "resolve"]


def resolve(version: RoomVersion, state_sets: Sequence[StateIds], source: EventSource) -> dict[StateKey, str]:
    """Resolve states, each a map of `(type, state_key)` to event id, into one.

    No states give the empty state, and states that agree are given back without a question to `source`.
    """
    if not state_sets:
        return {}
    algorithm = version.state_resolution
    conflicts = separate(state_sets, absence_conflicts=algorithm is not StateResolution.V1)
    if not conflicts.conflicted:
        return conflicts.unconflicted
    if algorithm is StateResolution.V1:
        return version1.resolve_conflicts(conflicts, source)
    return version2.resolve_conflicts(conflicts, state_sets, source, v2_1=algorithm is StateResolution.V2_1)
