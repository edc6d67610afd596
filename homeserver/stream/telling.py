# SPDX-License-Identifier: Apache-2.0
"""Telling the other processes what is not on the stream, so that they know it before they answer anybody.

A notification alone says when news arrives, not that it is on its way. So after it a serial is told: on the channel of
`hearing.py`, where it arrives after everything that was committed before, and in the memory that siblings share, where
it is seen at once. Costs nothing where a process is by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from homeserver.siblings import Neighbourhood
from homeserver.stream.hearing import CHANNEL


class Notifier(Protocol):
    def notify_each(self, notifications: Sequence[tuple[str, str]]) -> Awaitable[None]: ...


class Telling:
    """One per process."""

    def __init__(self, notifier: Notifier, siblings: Neighbourhood) -> None:
        self._notifier = notifier
        self._siblings = siblings
        self._has_siblings = len(siblings.told) > 1
        self._serial = siblings.told[siblings.number] if self._has_siblings else 0
        self._under_way = False
        self._news: list[tuple[str, str]] = []
        self._waiting: list[Deferred[None]] = []

    async def told(self) -> None:
        """Return once whoever asks another process finds it to know what this one's commits notified of until now.

        To be awaited after such a commit and before its client is answered. Many that come at once share a statement.
        """
        if self._has_siblings:
            await self._next()

    async def notify_all(self, channel: str, payloads: Sequence[str]) -> None:
        """Notify all processes, this one too, and return as `told` does. A payload is below 8,000 bytes."""
        self._news += [(channel, payload) for payload in payloads]
        await self._next()

    async def notify(self, channel: str, payload: str) -> None:
        """As `notify_all`, of one."""
        await self.notify_all(channel, (payload,))

    def _next(self) -> Deferred[None]:
        """Fires when the next statement stands: one at a time, so that serials are heard in their order."""
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        if not self._under_way:
            Deferred.fromCoroutine(self._run())
        return done

    async def _run(self) -> None:
        self._under_way = True
        try:
            while self._waiting:
                served, self._waiting = self._waiting, []
                try:
                    await self._tell()
                except Exception as error:
                    for done in served:
                        if not done.called:
                            done.errback(error)
                else:
                    for done in served:
                        if not done.called:
                            done.callback(None)
        finally:
            self._under_way = False

    async def _tell(self) -> None:
        news, self._news = self._news, []
        if not self._has_siblings:
            await self._notifier.notify_each(news)
            return
        self._serial += 1
        serial, siblings = self._serial, self._siblings
        news.append((CHANNEL, f"{siblings.name} {siblings.number} {serial}"))
        await self._notifier.notify_each(news)
        siblings.tell(serial)
