# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to have a server asked for its keys.

Owns that a server is asked once however many wait for it, how many are asked at a time, and that nobody takes up all
of that by naming servers that do not answer. Each asker has a line of his own, they come by turns, and none has more
under way than half of what is left free: one alone has a third of all, and where many stay, some are left for whoever
comes. What nobody waits for any more is not begun.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.outgoing.errors import Overloaded

Work = Callable[[str], Coroutine[Any, Any, None]]


class _Fetch:
    """One server's. It may stand in several lines, those of all who want it, and leaves them all when it begins."""

    __slots__ = ("_work", "begun", "lines", "server_name", "waiting")

    def __init__(self, server_name: str, work: Work) -> None:
        self.server_name = server_name
        self._work = work
        self.begun = False
        self.waiting: list[Deferred[None]] = []
        self.lines: set[tuple[FetchTurns, Hashable]] = set()

    def begin(self) -> Deferred[None]:
        self.begun = True
        self.leave_lines()
        return Deferred.fromCoroutine(self._work(self.server_name)).addBoth(self._ended)

    def _ended(self, result: Failure | None) -> None:
        while self.waiting:  # one that hears of it may give up another
            waiter = self.waiting.pop(0)
            if isinstance(result, Failure):
                waiter.errback(result)
            else:
                waiter.callback(None)

    def leave_lines(self) -> None:
        for turns, asker in self.lines:
            turns.withdraw(asker, self.server_name)
        self.lines.clear()


class FetchTurns:
    """So many at a time."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._lines: OrderedDict[Hashable, dict[str, _Fetch]] = OrderedDict()
        self._of: Counter[Hashable] = Counter()
        """Under way, by asker."""
        self._beginning = False

    def put(self, asker: Hashable, fetch: _Fetch) -> None:
        """Have it begun in the asker's turn, which may be now."""
        self._lines.setdefault(asker, {})[fetch.server_name] = fetch
        fetch.lines.add((self, asker))
        self._begin_next()

    def withdraw(self, asker: Hashable, server_name: str) -> None:
        """It waits no more."""
        line = self._lines[asker]
        del line[server_name]
        if not line:
            del self._lines[asker]

    def _begin_next(self) -> None:
        if self._beginning:  # one that began has ended at once: the loop below goes on
            return
        self._beginning = True
        try:
            while (asker := self._next_asker()) is not None:
                fetch = next(iter(self._lines[asker].values()))
                self._lines.move_to_end(asker)
                self._free -= 1
                self._of[asker] += 1
                fetch.begin().addBoth(self._ended, asker)
        finally:
            self._beginning = False

    def _next_asker(self) -> Hashable | None:
        if not self._free:
            return None
        return next((asker for asker in self._lines if 2 * self._of[asker] < self._free), None)

    def _ended(self, _result: Failure | None, asker: Hashable) -> None:
        self._free += 1
        self._of[asker] -= 1
        if not self._of[asker]:
            del self._of[asker]
        self._begin_next()


class Fetches:
    """Those under way and those in line, at most `most`, one of a server."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, _Fetch] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def do(self, server_name: str, work: Work, turns: FetchTurns, asker: Hashable) -> None:
        """Wait for the work to be done, now or in the asker's turn, or the turn of who wants the same.

        Raises Overloaded, and what the work raises. Who gives up waiting does so alone; what has begun goes on.
        """
        fetch = self._known.get(server_name)
        if fetch is None:
            if len(self._known) >= self._most:
                raise Overloaded("too many look-ups at once")
            fetch = self._known[server_name] = _Fetch(server_name, self._forgetting(work))
        waiter: Deferred[None] = Deferred(partial(self._gave_up, fetch))
        fetch.waiting.append(waiter)
        if not fetch.begun:
            turns.put(asker, fetch)
        await waiter

    def _forgetting(self, work: Work) -> Work:
        async def do(server_name: str) -> None:
            try:
                await work(server_name)
            finally:  # before those who wait are told: who asks again begins anew
                del self._known[server_name]

        return do

    def _gave_up(self, fetch: _Fetch, waiter: Deferred[None]) -> None:
        fetch.waiting.remove(waiter)
        if not fetch.waiting and not fetch.begun:
            fetch.leave_lines()
            del self._known[fetch.server_name]
