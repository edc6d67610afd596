# SPDX-License-Identifier: Apache-2.0
"""Relations read from contents: what breaks the schema is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol.relations import Relation, may_be_bundled, relation_of


@pytest.mark.parametrize(
    ("relates_to", "relation"),
    [
        ({"rel_type": "m.thread", "event_id": "$a"}, Relation("m.thread", "$a")),
        (
            {"rel_type": "m.thread", "event_id": "$a", "m.in_reply_to": {"event_id": "$b"}},
            Relation("m.thread", "$a"),
        ),
        ({"rel_type": "x" * 255, "event_id": "$a"}, Relation("x" * 255, "$a")),
        ({"m.in_reply_to": {"event_id": "$b"}}, None),
        ({"rel_type": "m.thread"}, None),
        ({"event_id": "$a"}, None),
        ({"rel_type": 1, "event_id": "$a"}, None),
        ({"rel_type": "m.thread", "event_id": ["$a"]}, None),
        ({"rel_type": "m.thread", "event_id": "a"}, None),
        ({"rel_type": "m.thread", "event_id": "$a\0"}, None),
        ({"rel_type": "x" * 256, "event_id": "$a"}, None),
        ({"rel_type": "m.thread", "event_id": "$" + "ä" * 128}, None),
        ("$a", None),
        (None, None),
    ],
)
def test_a_contents_relation(relates_to: Any, relation: Relation | None) -> None:
    """A type and an event id, both of a size that can be stored."""
    assert relation_of({"m.relates_to": relates_to}) == relation
    assert relation_of({}) is None


@pytest.mark.parametrize(
    ("rel_type", "event_type", "state_key", "content", "bundled"),
    [
        ("m.replace", "m.room.message", None, {"m.new_content": {}}, True),
        ("m.replace", "m.room.message", None, {}, False),
        ("m.replace", "m.room.message", None, {"m.new_content": "x"}, False),
        ("m.replace", "m.room.encrypted", None, {}, True),
        ("m.replace", "m.room.topic", "", {"m.new_content": {}}, False),
        ("m.thread", "m.room.message", None, {}, True),
        ("m.reference", "m.room.topic", "", {}, True),
    ],
)
def test_which_children_count(
    rel_type: str, event_type: str, state_key: str | None, content: dict[str, Any], bundled: bool
) -> None:
    """An edit without new content, and an edit of state, are none."""
    assert may_be_bundled(Relation(rel_type, "$a"), event_type, state_key, content) is bundled
