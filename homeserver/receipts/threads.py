# SPDX-License-Identifier: Apache-2.0
"""Which thread an event is in (client-server API, "Threaded read receipts"). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MAIN = "main"
HOPS = 3
"""How far to follow indirect relations, as the specification recommends."""


class ThreadLink(NamedTuple):
    """An event on the way from a message to what it relates to in the end."""

    event_id: str
    rel_type: str | None
    parent: str | None


def direct_link(event_id: str, content: Mapping[str, Any]) -> ThreadLink:
    """An event's own relation."""
    relation = content.get("m.relates_to")
    if not isinstance(relation, dict):
        return ThreadLink(event_id, None, None)
    rel_type, parent = relation.get("rel_type"), relation.get("event_id")
    if not isinstance(rel_type, str) or not isinstance(parent, str):
        return ThreadLink(event_id, None, None)
    return ThreadLink(event_id, rel_type, parent)


def next_link(link: ThreadLink) -> str | None:
    """The event that decides for this one: what it is related to by something else than a thread."""
    return None if link.rel_type == "m.thread" else link.parent


def may_bear(chain: Sequence[ThreadLink], thread: str) -> bool:
    """Whether a receipt of `thread` may point to the event whose chain of relations this is.

    A thread's root, and what is related to it by other relations, is in the main timeline; clients also send receipts
    of the thread for its root, before they know that there are replies.
    """
    last = chain[-1]
    if last.rel_type == "m.thread":
        return last.parent == thread
    return thread in {MAIN, last.event_id, last.parent}
