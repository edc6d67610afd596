# SPDX-License-Identifier: Apache-2.0
"""What several states agree on and what they do not: the first step of every version of state resolution."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

StateKey = tuple[str, str]
StateIds = Mapping[StateKey, str]


class Conflicts(Struct, frozen=True):
    """States taken apart. `conflicted` holds, for each state key in conflict, the different events by id, in
    the order of the states.
    """

    unconflicted: dict[StateKey, str]
    conflicted: dict[StateKey, tuple[str, ...]]


def separate(state_sets: Sequence[StateIds], *, absence_conflicts: bool) -> Conflicts:
    """Divide the states' entries.

    From version 2, a key that some state lacks is in conflict (`absence_conflicts`); in version 1 only keys
    with different events are.
    """
    first = state_sets[0]
    unconflicted: dict[StateKey, str] = {}
    contested: dict[StateKey, None] = {}
    # The states of a room differ in few keys: a pass of look-ups over the first, then of keys over the
    # others.
    others = state_sets[1:]
    for key, event_id in first.items():
        if all(other.get(key) == event_id for other in others):
            unconflicted[key] = event_id
        else:
            contested[key] = None
    for other in others:
        if len(other) > len(unconflicted):
            contested.update((key, None) for key in other if key not in unconflicted)
    conflicted: dict[StateKey, tuple[str, ...]] = {}
    for key in contested:
        event_ids = tuple(dict.fromkeys(state[key] for state in state_sets if key in state))
        if len(event_ids) == 1 and not absence_conflicts:
            unconflicted[key] = event_ids[0]
        else:
            conflicted[key] = event_ids
    return Conflicts(unconflicted, conflicted)
