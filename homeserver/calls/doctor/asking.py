# SPDX-License-Identifier: Apache-2.0
"""Questions to a media process, each answered once. Owns pairing answers with them; bounded in time by whoever asks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.needs import Protocol


class MediaFailed(Exception):
    """What was asked could not be tried; the message is the media process's."""


class Media(Protocol):
    """What is needed of `media.process.MediaProcess`."""

    def send(self, command: Mapping[str, Any]) -> None: ...
    def rest(self) -> Deferred[None]: ...


class MediaAsker:
    """Asks one media process, whose `Watcher` it is."""

    def __init__(self, media: Callable[[MediaAsker], Media]) -> None:
        self._media = media(self)
        self._waiting: dict[str, Deferred[Any]] = {}
        self._ids = itertools.count(1)

    async def ask(self, what: str, /, call_id: str | None = None, **parameters: Any) -> Any:
        """The result of a command (`media.messages`). `call_id` names what an earlier one made. Raises MediaFailed."""
        question = call_id or self.new_id()
        answer: Deferred[Any] = Deferred()
        self._waiting[question] = answer
        self._media.send({"do": what, "id": question, **parameters})
        return await answer

    def new_id(self) -> str:
        """A name for something that several questions are about."""
        return f"q{next(self._ids)}"

    async def close(self) -> None:
        """End the process."""
        await self._media.rest()

    def told(self, news: Mapping[str, Any]) -> None:
        """See `Watcher`."""
        answer = self._waiting.pop(news.get("id", ""), None)
        if answer is None:
            return
        if news["tell"] == "result":
            answer.callback(news["result"])
        else:
            answer.errback(MediaFailed(str(news.get("error", news["tell"]))))

    def died(self) -> None:
        """See `Watcher`."""
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.errback(MediaFailed("the media process ended"))
