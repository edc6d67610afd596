# SPDX-License-Identifier: Apache-2.0
"""Counts of unread notifications, as values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct, field


class Counts(Struct, frozen=True):
    """How many unread events notify, and how many of those are highlighted."""

    notifications: int = 0
    highlights: int = 0


class UnreadCounts(Struct, frozen=True):
    """Of one room: all there is, the main timeline's part, and each thread's that has any, by the root's event id."""

    room: Counts = field(default_factory=Counts)
    main: Counts = field(default_factory=Counts)
    threads: Mapping[str, Counts] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def main_counts(notifications: int, highlights: int) -> UnreadCounts:
    """Of a room in which nothing is unread but in its main timeline: the same values again and again."""
    main = Counts(notifications, highlights)
    return UnreadCounts(main, main)
