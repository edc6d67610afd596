# SPDX-License-Identifier: Apache-2.0
"""Which numbers a body may hold, wherever they are and whatever its strings look like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson
from homeserver.web.bodies import parse_json

LARGEST = 2**53 - 1
TEXTS = st.sampled_from(("0e1", "1234567890123456789", ":1e9", ",-1E300", "[12345678901234567890", "", "a"))
LARGE = (str(LARGEST + 1), str(-LARGEST - 1), "1.5e300", "12345678901234567890", "9007199254740993.5")
SMALL = ("0", "-7", "0.25", "-1.5", str(LARGEST), str(-LARGEST), "1e3", "-1E3", "-0.1e-7", "123456789012345")
NUMBERS = st.sampled_from((*LARGE, *SMALL))


def _too_large(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_too_large, value.values()))
    if isinstance(value, list):
        return any(map(_too_large, value))
    return isinstance(value, (int, float)) and not -LARGEST <= value <= LARGEST


@given(
    st.recursive(
        NUMBERS | TEXTS.map(json.dumps),
        lambda inner: (
            st.lists(inner, max_size=4).map(lambda parts: "[" + ", ".join(parts) + "]")
            | st.dictionaries(TEXTS, inner, max_size=4).map(
                lambda parts: (
                    "{" + ",".join(f"{json.dumps(key)}:\t{value}" for key, value in parts.items()) + "}"
                )
            )
            | st.lists(inner, max_size=4).map(lambda parts: "[" + ",".join(parts) + "]")
        ),
    )
)
def test_only_numbers_that_every_client_can_read(raw: str) -> None:
    """In small bodies and in large ones."""
    value = json.loads(raw)
    for body in (raw, raw + " " * 5000):
        if _too_large(value):
            with pytest.raises(BadJson):
                parse_json(body.encode())
        else:
            assert parse_json(body.encode()) == value
