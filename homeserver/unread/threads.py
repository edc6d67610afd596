# SPDX-License-Identifier: Apache-2.0
"""Which thread each of many events is in (client-server API, "Threaded read receipts").

Most events say it themselves; the thread of a reaction or the like is that of what it relates to, a few hops on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple

import orjson

from homeserver.needs import Protocol
from homeserver.receipts.threads import HOPS, MAIN, ThreadLink, direct_link, next_link
from storage.events import StoredEvent


class Related(NamedTuple):
    """An event that is neither in a thread nor unrelated: `parent` decides."""

    room: int
    event_id: str
    parent: str


class Events(Protocol):
    def by_ids(self, event_ids: Sequence[str]) -> Awaitable[Mapping[str, StoredEvent]]: ...


def own_thread(link: ThreadLink) -> str | None:
    """The thread of an event by what it says itself; None if its parent decides."""
    if next_link(link) is not None:
        return None
    return MAIN if link.parent is None else link.parent


async def find_threads(events: Events, related: Sequence[Related]) -> dict[str, str]:
    """The thread of each event by its id: `main`, or the root's id. One query per hop for all of them."""
    threads: dict[str, str] = {}
    waiting = list(related)
    for _ in range(HOPS):
        if not waiting:
            break
        parents = await events.by_ids(list({each.parent for each in waiting}))
        further: list[Related] = []
        for each in waiting:
            parent = parents.get(each.parent)
            if parent is None or parent.room != each.room:
                threads[each.event_id] = MAIN
                continue
            link = direct_link(parent.event_id, orjson.loads(parent.pdu)["content"])
            thread = own_thread(link)
            if thread is None:
                assert link.parent is not None
                further.append(each._replace(parent=link.parent))
            else:
                threads[each.event_id] = thread
        waiting = further
    threads.update((each.event_id, MAIN) for each in waiting)
    return threads
