# SPDX-License-Identifier: Apache-2.0
"""Those who wait for a number that only grows to have grown enough. No I/O."""

from __future__ import annotations

from twisted.internet.defer import Deferred


class Waiting:
    """Deferreds by the number they wait for. Each is its taker's own and may be cancelled."""

    __slots__ = ("_by_number",)

    def __init__(self) -> None:
        self._by_number: dict[int, set[Deferred[None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_number)

    def until(self, number: int) -> Deferred[None]:
        """Fires when `reached` is called with that or a greater number."""

        def forget(cancelled: Deferred[None]) -> None:
            waiting = self._by_number.get(number)
            if waiting is not None:
                waiting.discard(cancelled)
                if not waiting:
                    del self._by_number[number]

        deferred: Deferred[None] = Deferred(forget)
        self._by_number.setdefault(number, set()).add(deferred)
        return deferred

    def reached(self, current: int) -> None:
        """Fire all who wait for `current` or less."""
        for number in [each for each in self._by_number if each <= current]:
            for deferred in tuple(self._by_number.pop(number, ())):
                deferred.callback(None)
