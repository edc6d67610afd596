# SPDX-License-Identifier: Apache-2.0
"""Filters: each field by example, wildcards against a plain reference."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.filters import (
    DEFAULT_LIMIT,
    MOST_EVENTS,
    NO_FILTER,
    EventFilter,
    FilterError,
    RoomEventFilter,
    SyncFilter,
    TypePatterns,
    pick_fields,
    property_path,
)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_wildcards_match_any_run_of_characters(pattern: str, text: str) -> None:
    """As a regular expression would say it."""
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert TypePatterns([pattern]).match(text) is expected


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        ({"room": {"timeline": {"types": ["*a"] * 100}}}, {"room": {"timeline": {"types": ["*a"] * 101}}}),
        ({"room": {"state": {"not_types": ["*" * 100]}}}, {"room": {"state": {"not_types": ["*" * 101]}}}),
        ({"presence": {"types": ["m.a"] * 5000}}, {"presence": {"types": ["m.*"] * 5000}}),
        ({"event_fields": ["content.body"] * 500}, {"event_fields": ["content.body"] * 501}),
        ({"event_fields": [".".join("a" * 1000)]}, {"event_fields": [".".join("a" * 1001)]}),
    ],
)
def test_what_a_filter_costs_per_event_is_bounded(allowed: dict[str, Any], refused: dict[str, Any]) -> None:
    """A sync looks at thousands of events on the reactor thread, and asks the filter about each."""
    SyncFilter.parse(allowed)
    with pytest.raises(FilterError):
        SyncFilter.parse(refused)


@pytest.mark.parametrize(
    ("source", "event_type", "sender", "passes"),
    [
        ({}, "m.a", "@a:x", True),
        ({"types": ["m.a"]}, "m.a", "@a:x", True),
        ({"types": ["m.a"]}, "m.b", "@a:x", False),
        ({"types": []}, "m.a", "@a:x", False),
        ({"types": ["m.*"]}, "m.b", "@a:x", True),
        ({"types": ["m.*"], "not_types": ["*.b"]}, "m.b", "@a:x", False),
        ({"not_types": ["*"]}, "m.b", "@a:x", False),
        ({"senders": ["@a:x"]}, "m.b", "@a:x", True),
        ({"senders": ["@a:x"]}, "m.b", None, False),
        ({"senders": []}, "m.b", "@a:x", False),
        ({"senders": ["@a:x"], "not_senders": ["@a:x"]}, "m.b", "@a:x", False),
        ({"not_senders": ["@b:x"]}, "m.b", "@a:x", True),
    ],
)
def test_events_pass_by_type_and_sender(
    source: dict[str, Any], event_type: str, sender: str | None, passes: bool
) -> None:
    """Exclusion beats inclusion; an empty list includes nothing."""
    assert EventFilter.parse(source).allows(event_type, sender) is passes


@pytest.mark.parametrize(
    ("wish", "with_url", "without"), [(None, True, True), (True, True, False), (False, False, True)]
)
def test_events_pass_by_url(wish: bool | None, with_url: bool, without: bool) -> None:
    event_filter = RoomEventFilter.parse({} if wish is None else {"contains_url": wish})
    assert event_filter.allows_event("m", "@a:x", {"url": 1}) is with_url
    assert event_filter.allows_event("m", "@a:x", {}) is without


def test_rooms_pass_by_id() -> None:
    """In the whole filter and in each of its parts."""
    source = {"rooms": ["!a", "!b"], "not_rooms": ["!b"]}
    for filtering in (SyncFilter.parse({"room": source}), RoomEventFilter.parse(source)):
        assert [room for room in ("!a", "!b", "!c") if filtering.allows_room(room)] == ["!a"]


@pytest.mark.parametrize(
    ("source", "limit"),
    [({}, DEFAULT_LIMIT), ({"limit": 3}, 3), ({"limit": 0}, 0), ({"limit": 10**9}, MOST_EVENTS)],
)
def test_limits_have_a_default_and_a_maximum(source: dict[str, Any], limit: int) -> None:
    assert RoomEventFilter.parse(source).page_limit == limit


def test_the_empty_filter_is_known_to_select_everything() -> None:
    """What the fast paths ask."""
    assert NO_FILTER.timeline.selects_all and NO_FILTER.presence.allows_all and NO_FILTER.selects_all_rooms
    assert not NO_FILTER.reshapes_events and not NO_FILTER.include_leave
    narrowing: tuple[dict[str, Any], ...] = (
        {"types": []},
        {"senders": []},
        {"contains_url": False},
        {"rooms": []},
        {"not_rooms": ["!a"]},
    )
    for source in narrowing:
        assert not RoomEventFilter.parse(source).selects_all


def test_the_parts_of_a_filter_are_told_apart() -> None:
    parsed = SyncFilter.parse(
        {
            "room": {
                "timeline": {"limit": 1},
                "state": {"lazy_load_members": True, "include_redundant_members": True},
                "ephemeral": {"types": ["m.typing"]},
                "account_data": {"types": ["m.tag"]},
                "include_leave": True,
            },
            "presence": {"not_types": ["*"]},
            "account_data": {"limit": 2},
            "event_format": "federation",
            "unknown": {"kept": "out"},
        }
    )
    assert parsed.timeline.limit == 1 and parsed.account_data.capped(5) == 2
    assert parsed.state.lazy_load_members and parsed.state.include_redundant_members
    assert not parsed.timeline.lazy_load_members
    assert not parsed.ephemeral.allows("m.receipt", None) and parsed.room_account_data.allows("m.tag", None)
    assert parsed.include_leave and parsed.federation_format and parsed.reshapes_events
    assert not parsed.presence.allows("m.presence", "@a:x")


@pytest.mark.parametrize(
    "source",
    [
        [],
        None,
        {"room": []},
        {"room": {"timeline": {"limit": -1}}},
        {"room": {"timeline": {"limit": True}}},
        {"room": {"timeline": {"limit": "1"}}},
        {"room": {"rooms": "!a"}},
        {"room": {"state": {"lazy_load_members": 1}}},
        {"presence": {"types": [1]}},
        {"event_fields": "content"},
        {"event_format": "xml"},
    ],
)
def test_malformed_filters_are_refused(source: Any) -> None:
    with pytest.raises(FilterError):
        SyncFilter.parse(source)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to.x", ("content", "m.relates_to", "x")),
        (r"a\\.b", ("a\\", "b")),
        (r"a\x", (r"a\x",)),
        ("a\\", ("a\\",)),
        ("", ("",)),
    ],
)
def test_property_paths_are_split_at_plain_dots(text: str, steps: tuple[str, ...]) -> None:
    assert property_path(text) == steps


def test_only_the_fields_named_are_picked() -> None:
    event = {
        "type": "m",
        "content": {"body": "b", "deep": {"x": 1, "y": 2}, "msgtype": "t"},
        "sender": "@a:x",
    }
    paths = [("type",), ("content", "deep", "x"), ("content", "body"), ("nowhere", "else"), ("type", "of")]
    assert pick_fields(event, paths) == {"type": "m", "content": {"deep": {"x": 1}, "body": "b"}}
    assert pick_fields(event, [("content", "body"), ("content",)])["content"] == event["content"]
    assert pick_fields(event, [("content",), ("content", "body")])["content"]["msgtype"] == "t"
    assert event["content"] == {"body": "b", "deep": {"x": 1, "y": 2}, "msgtype": "t"}
