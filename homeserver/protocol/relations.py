# SPDX-License-Identifier: Apache-2.0
"""Relations between events (client-server API, "Forming relationships between events").

Owns reading them from an event's content. Does not own what is aggregated of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

LONGEST = 255
"""Bytes of an event id or relation type: as for an event's own fields."""

REPLACE = "m.replace"
THREAD = "m.thread"
REFERENCE = "m.reference"
ANNOTATION = "m.annotation"


class Relation(NamedTuple):
    """From a child to its parent."""

    rel_type: str
    event_id: str


def relation_of(content: Mapping[str, Any]) -> Relation | None:
    """The relation that a content declares; None if there is none, or one that breaks the schema.

    A rich reply is none: it has no `rel_type`.
    """
    source = content.get("m.relates_to")
    if not isinstance(source, Mapping):
        return None
    rel_type, event_id = source.get("rel_type"), source.get("event_id")
    if not isinstance(rel_type, str) or not isinstance(event_id, str):
        return None
    if not event_id.startswith("$") or any(_unfit(text) for text in (rel_type, event_id)):
        return None
    return Relation(rel_type, event_id)


def annotation_key(content: Mapping[str, Any]) -> str | None:
    """What an annotation says ("Annotations"); None for a content that is none, or says nothing."""
    source = content.get("m.relates_to")
    key = source.get("key") if isinstance(source, Mapping) else None
    return key if isinstance(key, str) else None


def may_be_bundled(
    relation: Relation, event_type: str, state_key: str | None, content: Mapping[str, Any]
) -> bool:
    """Whether an event can count in its parent's aggregations, as far as it shows by itself.

    An edit brings the new content, unless that is encrypted, and is no state event ("Validity of replacement events").
    """
    if relation.rel_type != REPLACE:
        return True
    if state_key is not None:
        return False
    return event_type == "m.room.encrypted" or isinstance(content.get("m.new_content"), Mapping)


def _unfit(text: str) -> bool:
    return "\0" in text or len(text.encode("utf-8", "surrogatepass")) > LONGEST
