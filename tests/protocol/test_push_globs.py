# SPDX-License-Identifier: Apache-2.0
"""Globs of push rules and paths of properties, against the specification's examples and a plain regular expression."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.push_rules.event_view import ABSENT, EventView, parse_path
from homeserver.protocol.push_rules.globs import Glob, fold

PATTERNS = st.text("ab_-@*?", max_size=6)
TEXTS = st.text("abAB_-@ ", max_size=12)


def as_regex(pattern: str) -> str:
    """The pattern as a regular expression would put it: slow at worst, but plain to see."""
    return "".join(
        {"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern.lower()
    )


def boundaries(text: str) -> list[int]:
    """Where a word may begin or end: everywhere but between two characters of a word."""
    word = [character in "abcdefghijklmnopqrstuvwxyz0123456789_" for character in text.lower()]
    return [at for at in range(len(text) + 1) if not (0 < at < len(text) and word[at - 1] and word[at])]


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("lunc?*", "Lunch plans", True),
        ("lunc?*", "LUNCH", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("m.room.message", "m.room.message", True),
        ("m.room.message", "mxroomxmessage", False),
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("?", "", False),
        ("a*b*c", "aXbYbZc", True),
        ("a*b*c", "aXbYbZ", False),
        ("*.example.org", "matrix.example.org", True),
        ("[a-c]", "b", False),
    ],
)
def test_a_glob_matches_the_whole_value(pattern: str, text: str, expected: bool) -> None:
    """The specification's examples of `event_match`, and corners."""
    assert Glob(pattern).matches(fold(text)) is expected


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "An exciting tripled", False),
        ("cake", "Cake!", True),
        ("cake", "a piece of\ncake", True),
        ("cake", "cakes", False),
        ("cake", "cupcake", False),
        ("cake", "cheese_cake", False),
        ("cake", "käcake", True),
        ("@room", "hey@room", True),
        ("room", "@room", True),
        ("cake*lie", "the cake is a lie", True),
        ("cake*lie", "the cake is a lieutenant", False),
        ("ca?e", "my case", True),
        ("foo", "foobar foo", True),
        ("foo", "", False),
    ],
)
def test_a_pattern_is_found_between_word_boundaries(pattern: str, text: str, expected: bool) -> None:
    """The specification's examples of `content.body`, and corners."""
    assert Glob(pattern).occurs_in(fold(text)) is expected


@given(PATTERNS, TEXTS)
def test_matching_is_what_a_regular_expression_says(pattern: str, text: str) -> None:
    """Any pattern and text, the whole value."""
    expected = re.fullmatch(as_regex(pattern), text.lower(), re.DOTALL) is not None
    assert Glob(pattern).matches(fold(text)) is expected


@given(PATTERNS, TEXTS)
def test_finding_is_matching_some_part_between_boundaries(pattern: str, text: str) -> None:
    """Any pattern and text, within the value; a miss may be told by the pieces, a hit never."""
    places = boundaries(text)
    parts = [text[start:end].lower() for start in places for end in places if start <= end]
    expected = any(re.fullmatch(as_regex(pattern), part, re.DOTALL) for part in parts)
    glob = Glob(pattern)
    assert glob.occurs_in(fold(text)) is expected
    assert glob.may_match(fold(text)) or not expected


def test_a_literal_has_no_wildcards() -> None:
    """A display name with a star in it is only found as it is."""
    glob = Glob("a*b?", literal=True)
    assert glob.occurs_in(fold("hey A*B?, there"))
    assert not glob.occurs_in(fold("hey a and bo, there"))
    assert glob.matches("a*b?")


def test_advisory_8_a_hostile_pattern_takes_as_many_steps_as_the_text_is_long() -> None:
    """Patterns that send backtracking matchers round for hours (CVE-2021-29471) end with the text."""
    steps = 0

    class Counted(str):
        __slots__ = ()

        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal steps
            for character in str(self)[:]:
                steps += 1
                yield character

    text = Counted("a" * 5000)
    for pattern in ("a*" * 60 + "?b*" + "a", "*a?" * 80, "?" * 4000 + "*" + "a" * 2000):
        glob = Glob(pattern)
        glob.occurs_in(text)
        glob.matches(text)
    assert 0 < steps <= 6 * len(text)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("type", ("type",)),
        ("content.body", ("content", "body")),
        ("content.m\\.relates_to.rel_type", ("content", "m.relates_to", "rel_type")),
        ("content.m\\\\foo", ("content", "m\\foo")),
        ("content.m\\x", ("content", "m\\x")),
        ("content.m\\\\.x", ("content", "m\\", "x")),
        ("content.m\\", ("content", "m\\")),
        ("a..b", ("a", "", "b")),
        ("\\.", (".",)),
    ],
)
def test_a_path_is_read_with_its_escapes(path: str, names: tuple[str, ...]) -> None:
    """Appendices, "Dot-separated property paths"."""
    assert parse_path(path) == names


def test_a_view_shows_what_clients_see_of_an_event() -> None:
    """Identifiers that the federation form lacks are there, what is between servers is not."""
    view = EventView(
        {"type": "m.room.message", "sender": "@a:b", "depth": 3, "content": {"a.b": {"c": None}, "n": [1]}},
        event_id="$e",
        room_id="!r",
    )
    assert view.value(("event_id",)) == "$e"
    assert view.value(("room_id",)) == "!r"
    assert view.value(("content", "a.b", "c")) is None
    for path in (("depth",), ("state_key",), ("content", "x"), ("content", "n", "0"), ("type", "x"), ("",)):
        assert view.value(path) is ABSENT
    assert view.text(("content", "n")) is None
    assert view.text(("type",)) == "m.room.message"
