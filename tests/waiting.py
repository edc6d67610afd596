# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition of another process, which can't be awaited: looked at until it holds, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], what: str, *, timeout: float = 180.0) -> None:
    """Return as soon as the condition holds; fail with `what` was waited for after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:.0f} s: {what}")
        time.sleep(0.02)
