# SPDX-License-Identifier: Apache-2.0
"""From events to the bytes of a response, in portions that leave the reactor to others in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set

import orjson

from homeserver.events import RoomEvent
from homeserver.events.rendering import Past, Reader, array, render, render_all, render_page
from homeserver.needs import Protocol
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.reading.aggregations import Aggregations, Shown

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

    def __init__(
        self, *, now: Callable[[], int], pause: Callable[[], Awaitable[None]], aggregations: Aggregations
    ) -> None:
        self._now = now
        self.pause = pause
        self._aggregations = aggregations

    def reader(self, client: Client) -> Reader:
        """The client as renderings address it."""
        return Reader(client.user_id, client.device_id, self._now())

    async def state(self, client: Client, entries: Sequence[RoomEvent]) -> list[bytes]:
        """State events, each rendered, without what depends on the reader's past."""
        return await self._render(self.reader(client), None, entries)

    async def timeline(self, client: Client, past: Past, entries: Sequence[RoomEvent]) -> list[bytes]:
        """Events of a room's timeline, each rendered, nothing aggregated."""
        return await self._render(self.reader(client), past, entries)

    async def history(
        self,
        client: Client,
        access: RoomAccess,
        entries: Sequence[RoomEvent],
        ignored: frozenset[str],
        parents: Set[str] | None = None,
    ) -> list[bytes]:
        """Events of a room's timeline, each rendered with what its children add up to.

        `parents`: ids among which are all of them that have children, if that is known.
        """
        if not entries:
            return []
        reader, sight = self.reader(client), access.sight
        asked = (
            entries if parents is None else [entry for entry in entries if entry.stored.event_id in parents]
        )
        relations = await self._aggregations.of([Shown.to(access, asked)], reader, ignored)
        positions = [entry.stored.position for entry in entries]
        membership = sight.membership_throughout(min(positions), max(positions))
        rendered: list[bytes] = []
        for start in range(0, len(entries), PORTION):
            if start:
                await self.pause()
            portion = entries[start : start + PORTION]
            rendered.extend(render_page(portion, reader, sight, membership, relations))
        return rendered

    def mixed(self, client: Client, entries: Iterable[tuple[RoomEvent, Past]]) -> list[bytes]:
        """A few events of several rooms, each with the client's past there."""
        reader = self.reader(client)
        return [render(entry, reader, past) for entry, past in entries]

    async def _render(self, reader: Reader, past: Past | None, entries: Sequence[RoomEvent]) -> list[bytes]:
        rendered: list[bytes] = []
        for start in range(0, len(entries), PORTION):
            if start:
                await self.pause()
            rendered.extend(render_all(entries[start : start + PORTION], reader, past))
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


__all__ = ["PORTION", "Client", "Presenter", "array", "json_object", "text"]
