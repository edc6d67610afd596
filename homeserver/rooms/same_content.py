# SPDX-License-Identifier: Apache-2.0
"""Whether two contents are the same JSON. Python alone would have it that `true` is 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


def same_content(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Compares values, not the order of keys."""
    return one == other and _sorted(one) == _sorted(other)


def _sorted(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
