# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 (Twisted's names)
"""The part of a reactor that keeps time."""

from collections.abc import Callable
from typing import Any

from homeserver.needs import Protocol


class Clock(Protocol):
    """A reactor, or Twisted's `task.Clock` in tests."""

    def seconds(self) -> float:
        """Now, in seconds since the epoch."""
        ...

    def callLater(self, delay: float, callable: Callable[..., object], /, *args: object) -> Any:
        """Call later; what it returns can be cancelled."""
        ...
