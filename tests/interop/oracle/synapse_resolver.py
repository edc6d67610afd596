# SPDX-License-Identifier: Apache-2.0
"""Run by Synapse's interpreter: resolves states as Synapse does. A JSON question per line in, an answer per line out.

    {"version": "10", "room_id": "!…", "events": [[event id, PDU, …], …], "states": [[[type, key, event id], …], …]}
    [[type, key, event id], …]   or   {"error": "…"}

Owns nothing of ours: only Synapse's code and the standard library are imported.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import synapse.storage.databases.main.event_federation  # first, since the modules below import each other
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, StateResolutionVersions
from synapse.events import make_event_from_dict
from synapse.state import v1, v2


class Clock:
    async def sleep(self, _duration: float) -> None:
        return


class Store:
    """The events of one room, and questions about their auth chains."""

    def __init__(self, events: Mapping[str, Any]) -> None:
        self.events = events

    async def get_events(self, event_ids: Iterable[str], allow_rejected: bool = False) -> dict[str, Any]:
        return {event_id: self.events[event_id] for event_id in event_ids if event_id in self.events}

    def _chain(self, event_ids: Iterable[str]) -> set[str]:
        reached = set(event_ids)
        waiting = list(reached)
        while waiting:
            for auth_id in self.events[waiting.pop()].auth_event_ids():
                if auth_id not in reached:
                    reached.add(auth_id)
                    waiting.append(auth_id)
        return reached

    async def get_auth_chain_difference(
        self,
        room_id: str,
        state_sets: Sequence[set[str]],
        conflicted_state: Collection[str] | None,
        additional: Collection[str] | None,
    ) -> Any:
        first, *others = [self._chain(state) for state in state_sets]
        difference = first.union(*others) - first.intersection(*others)
        subgraph: set[str] = set()
        if conflicted_state is not None:
            start = set(conflicted_state) | set(additional or ())
            above = {event_id for event_id in self.events if self._chain([event_id]) & start}
            subgraph = self._chain(start) & above
        return synapse.storage.databases.main.event_federation.StateDifference(
            auth_difference=difference, conflicted_subgraph=subgraph
        )


async def resolve(question: dict[str, Any]) -> list[list[str]]:
    version = KNOWN_ROOM_VERSIONS[question["version"]]
    events = {}
    for event_id, pdu in question["events"]:
        event = make_event_from_dict(pdu, version)
        assert event.event_id == event_id, (event.event_id, event_id)
        events[event_id] = event
    states = [{(kind, key): event_id for kind, key, event_id in state} for state in question["states"]]
    store = Store(events)
    if version.state_res == StateResolutionVersions.V1:
        resolved = await v1.resolve_events_with_store(
            question["room_id"], version, states, None, store.get_events
        )
    else:
        resolved = await v2.resolve_events_with_store(
            Clock(), question["room_id"], version, states, None, store
        )
    return [[kind, key, event_id] for (kind, key), event_id in resolved.items()]


def main() -> None:
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            try:
                answer: Any = runner.run(resolve(json.loads(line)))
            except Exception:
                answer = {"error": traceback.format_exc()}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


main()
