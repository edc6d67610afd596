# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON: the specification's examples, equality with the reference package, and what is refused."""

import json
from typing import Any

import pytest
from canonicaljson import encode_canonical_json
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.canonical_json import (
    MAX_DEPTH,
    MAX_INTEGER,
    check_canonical,
    encode_canonical,
    encode_checked,
)
from homeserver.protocol.errors import CanonicalJsonError

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.characters(max_codepoint=0x7F))
STRICT_SCALARS = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT
LAX_SCALARS = STRICT_SCALARS | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


def values(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


@pytest.mark.parametrize(
    ("source", "canonical"),
    [
        ("{}", "{}"),
        ('{"one": 1, "two": "Two"}', '{"one":1,"two":"Two"}'),
        ('{"b": "2", "a": "1"}', '{"a":"1","b":"2"}'),
        (
            '{"auth": {"success": true, "profile": {"pids": [{"medium": "email", "address": "a@b"}, {}]}}}',
            '{"auth":{"profile":{"pids":[{"address":"a@b","medium":"email"},{}]},"success":true}}',
        ),
        ('{"a": "日本語"}', '{"a":"日本語"}'),
        ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
        ('{"a": "\\u65E5"}', '{"a":"日"}'),
        ('{"a": null}', '{"a":null}'),
        ('{"a": -0, "b": 10000000000}', '{"a":0,"b":10000000000}'),
        # Keys sort by code point, not by UTF-16 unit: U+E000 comes before U+1F600.
        ('{"\\ud83d\\ude00": 1, "\\ue000": 2}', '{"\ue000":2,"\U0001f600":1}'),
        (
            '"\\u0000\\u0007\\b\\t\\n\\f\\r\\u001f\\"\\\\\\/\\u007f"',
            '"\\u0000\\u0007\\b\\t\\n\\f\\r\\u001f\\"\\\\/\x7f"',
        ),
    ],
)
def test_examples(source: str, canonical: str) -> None:
    assert encode_canonical(json.loads(source)) == canonical.encode()


@given(values(STRICT_SCALARS))
def test_strict_encoding_equals_the_reference(value: Any) -> None:
    expected = encode_canonical_json(value)
    assert encode_canonical(value) == expected
    assert encode_canonical(value, strict=False) == expected
    check_canonical(value)
    assert encode_checked(value) == expected


@given(values(LAX_SCALARS))
def test_lax_encoding_equals_the_reference(value: Any) -> None:
    assert encode_canonical(value, strict=False) == encode_canonical_json(value)


@given(values(STRICT_SCALARS))
def test_encoding_round_trips(value: Any) -> None:
    encoded = encode_canonical(value)
    assert encode_canonical(json.loads(encoded)) == encoded


@pytest.mark.parametrize("number", [1.0, 1e10, 0.5, -0.0, MAX_INTEGER + 1, -MAX_INTEGER - 1, 2**64, 10**30])
def test_only_lax_rules_take_floats_and_wide_integers(number: float) -> None:
    for value in (number, [number], {"a": {"b": [1, number]}}):
        with pytest.raises(CanonicalJsonError):
            encode_canonical(value)
        with pytest.raises(CanonicalJsonError):
            check_canonical(value)
        check_canonical(value, strict=False)
        assert encode_canonical(value, strict=False) == encode_canonical_json(value)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [float("-inf")],
        [10**5000 + 1],
        {1: 2},
        {None: 1},
        b"x",
        {"a": object()},
        {1, 2},
        "\ud800",
        {"\udfff": 1},
        ["ok", "é\udc00"],
    ],
)
def test_refused_whatever_the_rules(value: Any, strict: bool) -> None:
    with pytest.raises(CanonicalJsonError):
        encode_canonical(value, strict=strict)


@pytest.mark.parametrize("limit", [MAX_INTEGER, -MAX_INTEGER])
def test_the_widest_integers_pass(limit: int) -> None:
    assert encode_canonical([limit]) == b"[%d]" % limit


def nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "array" else {"a": value}
    return value


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", ["array", "object"])
def test_depth_is_limited_without_recursion(kind: str, strict: bool) -> None:
    assert encode_canonical(nested(MAX_DEPTH, kind), strict=strict)
    assert encode_canonical([1.5, nested(MAX_DEPTH - 1, kind)], strict=False)
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(CanonicalJsonError):
            encode_canonical(nested(depth, kind), strict=strict)
