# SPDX-License-Identifier: Apache-2.0
"""How deep a body may be nested, however its brackets are hidden."""

import pytest

from homeserver.errors import BadJson
from homeserver.web.bodies import MAX_DEPTH, parse_json


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        (b"[", b"]"),
        (b'{"a":', b"}"),
        (b'["}]",', b',"[{"]'),
        (b'{"}":', b',"{":1}'),
        (b'{"\\"}":', b',"{":1}'),
        (b'{"}{":', b',"x":"{"}'),
    ],
)
def test_depth_is_found(opening: bytes, closing: bytes) -> None:
    """Brackets in strings neither add to it nor take away; in small bodies and in large ones."""
    for room in (b"", b" " * 5000):
        parse_json(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH + room)
        with pytest.raises(BadJson):
            parse_json(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1) + room)


def test_many_shallow_values_are_not_deep() -> None:
    parse_json(b'{"a":[' + b",".join([b'{"b":{"c":["[{"]}}'] * (2 * MAX_DEPTH)) + b"]}")
    parse_json(b'{"a":[' + b",".join([b'{"b":{"c":[]}}'] * (2 * MAX_DEPTH)) + b"]}")
