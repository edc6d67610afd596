# SPDX-License-Identifier: Apache-2.0
"""From events to the bytes of a response, in portions that leave the reactor to others in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

import orjson

from homeserver.events import RoomEvent
from homeserver.events.rendering import Past, Reader, array, render

PORTION = 100
"""Events rendered in one go: two or three milliseconds."""


class Client(Protocol):
    """Who reads: a user on a device."""

    @property
    def user_id(self) -> str: ...

    @property
    def device_id(self) -> str | None: ...


class Presenter:
    """Renders lists of events. One per process.

    `now` gives milliseconds, `pause` lets the reactor turn.
    """

    def __init__(self, *, now: Callable[[], int], pause: Callable[[], Awaitable[None]]) -> None:
        self._now = now
        self._pause = pause

    def reader(self, client: Client) -> Reader:
        """The client as renderings address it."""
        return Reader(client.user_id, client.device_id, self._now())

    async def state(self, client: Client, entries: Sequence[RoomEvent]) -> list[bytes]:
        """State events, each rendered, without what depends on the reader's past."""
        return await self._render(client, None, entries)

    async def timeline(self, client: Client, past: Past, entries: Sequence[RoomEvent]) -> list[bytes]:
        """Events of a room's timeline, each rendered."""
        return await self._render(client, past, entries)

    def mixed(self, client: Client, entries: Iterable[tuple[RoomEvent, Past]]) -> list[bytes]:
        """A few events of several rooms, each with the client's past there."""
        reader = self.reader(client)
        return [render(entry, reader, past) for entry, past in entries]

    async def _render(self, client: Client, past: Past | None, entries: Sequence[RoomEvent]) -> list[bytes]:
        reader = self.reader(client)
        rendered: list[bytes] = []
        for start in range(0, len(entries), PORTION):
            if start:
                await self._pause()
            rendered.extend(render(entry, reader, past) for entry in entries[start : start + PORTION])
        return rendered


def json_object(fields: Mapping[str, bytes | None]) -> bytes:
    """A JSON object of values that are already encoded; those that are None are left out."""
    return (
        b"{"
        + b",".join(b'"%s":%s' % (key.encode(), value) for key, value in fields.items() if value is not None)
        + b"}"
    )


def text(value: str | None) -> bytes | None:
    """A JSON string."""
    return None if value is None else orjson.dumps(value)


__all__ = ["Client", "Presenter", "array", "json_object", "text"]
