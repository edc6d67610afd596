# SPDX-License-Identifier: Apache-2.0
"""Telling the other processes what is not on the stream, so that they know it before they answer anybody.

A notification alone says when news arrives, not that it is on its way. So after it a serial is told: on the channel of
`hearing.py`, where it arrives after everything that was committed before, and in the memory that siblings share, where
it is seen at once. Costs nothing where a process is by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from homeserver.needs import Protocol
from homeserver.siblings import Neighbourhood
from homeserver.stream.hearing import CHANNEL
from homeserver.stream.rounds import Rounds


class Notifier(Protocol):
    def notify_each(self, notifications: Sequence[tuple[str, str]]) -> Awaitable[None]: ...


class Elsewhere(Protocol):
    """Notifies, and writes down how far was told for those who share no memory."""

    def tell(self, serial: int, notifications: Sequence[tuple[str, str]]) -> Awaitable[None]: ...


class Others(Protocol):
    """Who is there to be told; `hearing.Hearing` knows."""

    @property
    def has_others(self) -> bool: ...

    @property
    def elsewhere(self) -> bool: ...


class Telling:
    """One per process."""

    def __init__(
        self,
        notifier: Notifier,
        siblings: Neighbourhood,
        *,
        origin: str,
        others: Others,
        elsewhere: Elsewhere,
    ) -> None:
        self._notifier = notifier
        self._siblings = siblings
        self._origin = origin
        self._others = others
        self._elsewhere = elsewhere
        # A process that was here before may have ended between notifying of a serial and writing it down: that one is
        # left out, since who heard it would take ours for old.
        self._serial = siblings.told[siblings.number] + 1 if siblings.told else 0
        self._news: list[tuple[str, str]] = []
        self._statements = Rounds(self._tell)
        """One at a time, so that serials are heard in their order."""

    async def told(self) -> None:
        """Return once whoever asks another process finds it to know what this one's commits notified of until now.

        To be awaited after such a commit and before its client is answered. Many that come at once share a statement.
        """
        if self._others.has_others:
            await self._statements.next()

    async def notify_all(self, channel: str, payloads: Sequence[str]) -> None:
        """Notify all processes, this one too, and return as `told` does. A payload is below 8,000 bytes."""
        self._news += [(channel, payload) for payload in payloads]
        await self._statements.next()

    async def notify(self, channel: str, payload: str) -> None:
        """As `notify_all`, of one."""
        await self.notify_all(channel, (payload,))

    async def _tell(self) -> None:
        news, self._news = self._news, []
        if not self._others.has_others:
            if news:
                await self._notifier.notify_each(news)
            return
        self._serial += 1
        serial, siblings = self._serial, self._siblings
        news.append((CHANNEL, f"{siblings.name} {siblings.number} {self._origin} {serial}"))
        if self._others.elsewhere:
            await self._elsewhere.tell(serial, news)
        else:
            await self._notifier.notify_each(news)
        siblings.tell(serial)
