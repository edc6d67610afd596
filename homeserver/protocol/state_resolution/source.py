# SPDX-License-Identifier: Apache-2.0
"""What state resolution asks about the events of a room, and a plain answer from events in memory.

The graph may be hostile: events cite events nobody has, or (versions 1 and 2, where ids are not hashes) each
other in circles. An implementation must answer all the same, in time linear in the events it walks.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from homeserver.needs import Protocol
from homeserver.protocol.events import Event


class EventSource(Protocol):
    """The room's events and their auth chains. The auth chain of an event does not hold the event itself.

    The set questions are here, and not worked out from `event`, so that a server may answer them from auth
    chains that it keeps as bitmaps.
    """

    def event(self, event_id: str) -> Event | None:
        """The event, or `None` if it is unknown. Asked for every event of the answers of the two methods
        below, of the conflicted state, and for the auth events of those; in version 12 also for the create
        event.
        """
        ...

    def is_rejected(self, event_id: str) -> bool:
        """Whether the event was rejected when it was received. Asked of auth events only."""
        ...

    def auth_difference(
        self, conflicted: Sequence[Collection[str]], unconflicted: Collection[str]
    ) -> Collection[str]:
        """The auth difference: the events in the auth chain of some state, but not of every one.

        `conflicted` holds, for each state, the ids of its conflicted events; `unconflicted` the ids of the
        events that every state has. The full auth chain of a state is the union of the auth chains of both.
        Events of `conflicted` and `unconflicted` may be in the answer or not.
        """
        ...

    def conflicted_subgraph(self, conflicted: Collection[str]) -> Collection[str]:
        """Version 2.1: the events on any path along `auth_events` from one of `conflicted` to another,
        endpoints included. Events of `conflicted` on no such path may be left out or not.
        """
        ...


class EventsInMemory(Struct, frozen=True):
    """An `EventSource` over a mapping that holds every event of the auth chains concerned.

    Events that the mapping lacks end the walk: they count as known to have no auth events.
    """

    events: Mapping[str, Event]
    rejected: Collection[str] = frozenset()

    def event(self, event_id: str) -> Event | None:
        return self.events.get(event_id)

    def is_rejected(self, event_id: str) -> bool:
        return event_id in self.rejected

    def auth_difference(
        self, conflicted: Sequence[Collection[str]], unconflicted: Collection[str]
    ) -> set[str]:
        chains = [self._auth_chain(event_ids) for event_ids in conflicted]
        if not chains:
            return set()
        everywhere = chains[0].intersection(*chains[1:])
        candidates = chains[0].union(*chains[1:]) - everywhere
        # The unconflicted events' chain is in every state's; it matters only if there is a candidate to remove.
        return candidates - self._auth_chain(unconflicted) if candidates else candidates

    def conflicted_subgraph(self, conflicted: Collection[str]) -> set[str]:
        descendants: dict[str, list[str]] = {}
        below = self._auth_chain(conflicted)
        for event_id in below.union(conflicted):
            for auth_id in self._auth_ids(event_id):
                descendants.setdefault(auth_id, []).append(event_id)
        # Everything found is below a conflicted event or is one; keep what is also above one.
        return _reach(below.intersection(conflicted), lambda event_id: descendants.get(event_id, ())).union(
            conflicted
        )

    def _auth_chain(self, event_ids: Iterable[str]) -> set[str]:
        chain: set[str] = set()
        for event_id in event_ids:
            chain.update(self._auth_ids(event_id))
        return _reach(chain, self._auth_ids)

    def _auth_ids(self, event_id: str) -> Sequence[str]:
        event = self.events.get(event_id)
        return () if event is None else event.auth_event_ids


def _reach(start: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    """Everything reachable from `start`, which is included, by a walk that visits each event once."""
    reached = set(start)
    waiting = list(reached)
    while waiting:
        for event_id in following(waiting.pop()):
            if event_id not in reached:
                reached.add(event_id)
                waiting.append(event_id)
    return reached
