# SPDX-License-Identifier: Apache-2.0
"""Turns among those who write to one room. Owns their order, and nothing of what they write."""

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def by_turns(queue: Iterable[T], whose: Callable[[T], str]) -> list[T]:
    """The same by turns: what each one has in it keeps its order, and nobody's first waits for another's second.

    Takes a moment for each; a queue that fits into one batch needs it not.
    """
    rounds: list[list[T]] = []
    seen: dict[str, int] = {}
    for each in queue:
        owner = whose(each)
        number = seen.get(owner, 0)
        seen[owner] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(each)
    return [each for among in rounds for each in among]
