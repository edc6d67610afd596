# SPDX-License-Identifier: Apache-2.0
"""What every scenario is: an asynchronous context that prepares a world and yields a trial to run."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from scripts.benchmarks.measuring import Load
from scripts.benchmarks.world import Scale, World

RunTrial = Callable[[float], Awaitable[Load]]
"""Applies the scenario's load for so many seconds; called several times (the first is the warm-up)."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the report."""

    key: str
    """The name on the command line and in the JSON."""
    title: str
    """For people; `{rooms}` and `{key_users}` stand for the scale's numbers."""
    operation: str
    """What is counted."""
    open: Callable[[World], AbstractAsyncContextManager[RunTrial]]
    only: str | None = None
    """The key of the only server that can do it."""
    compared_with: str | None = None
    """The scenario whose figures of the other server are its measure, where that one cannot do this."""

    def titled(self, scale: Scale) -> str:
        """The title at a scale."""
        return self.title.format(rooms=scale.rooms, key_users=scale.key_users)
