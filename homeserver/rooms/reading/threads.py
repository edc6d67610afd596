# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/threads`: the threads of a room, those with the newest events first (client-server API,
"Querying threads in a room").
"""

from __future__ import annotations

import orjson

from homeserver.errors import InvalidParam
from homeserver.events import RoomEvent
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.redaction import redact
from homeserver.protocol.relations import relation_of
from homeserver.protocol.tokens import PlaceToken
from homeserver.rooms.access import RoomAccess, RoomGate
from homeserver.rooms.reading import places
from homeserver.rooms.reading.messages import IgnoredUsers
from homeserver.rooms.reading.presenting import Client, Presenter, array, json_object, text
from storage.events import TimelinePlace
from storage.relations import RelationStore

DEFAULT_LIMIT = 20
MOST = 100
BATCHES = 20
"""Threads that the user may not see are passed over, but not for ever in one request."""


class RoomThreads:
    """One per process."""

    def __init__(
        self, *, gate: RoomGate, store: RelationStore, ignored_users: IgnoredUsers, presenter: Presenter
    ) -> None:
        self._gate = gate
        self._store = store
        self._ignored = ignored_users
        self._presenter = presenter

    async def page(
        self, client: Client, room_id: str, *, start: str | None, limit: int | None, participated: bool
    ) -> bytes:
        """The response, a JSON object. Raises Forbidden for the room, InvalidParam and TokenError for the token."""
        access = await self._gate.access_room(client.user_id, room_id)
        place = places.end_of(access.room)
        if start is not None:
            if not start.startswith("t"):
                raise InvalidParam("That is no token of a list of threads")
            place = TimelinePlace(*PlaceToken.parse(start))
        ignored = await self._ignored.ignored(client.user_id)
        limit = DEFAULT_LIMIT if limit is None else max(1, min(limit, MOST))
        roots, end = await self._walk(access, place, limit, client.user_id if participated else None, ignored)
        return json_object(
            {
                "chunk": array(await self._presenter.history(client, access, roots, ignored)),
                "next_batch": text(None if end is None else places.token_of(end)),
            }
        )

    async def _walk(
        self,
        access: RoomAccess,
        place: TimelinePlace,
        limit: int,
        participant: str | None,
        ignored: frozenset[str],
    ) -> tuple[list[RoomEvent], TimelinePlace | None]:
        """Up to `limit` roots that the user may see, and where to go on; None: there is nothing more."""
        roots: list[RoomEvent] = []
        for _ in range(BATCHES):
            found = await self._store.threads(
                access.room.key,
                place,
                upto=2**62 if access.until is None else access.until,
                limit=limit + 1,
                participant=participant,
                ignored=ignored,
            )
            for index, thread in enumerate(found):
                place = thread.latest
                root = self._gate.in_memory(access.room, thread.root)
                if not access.sight.may_see(root) or relation_of(root.event.content) is not None:
                    continue
                roots.append(_redacted(root) if thread.root.sender in ignored else root)
                if len(roots) == limit:
                    return roots, place if index + 1 < len(found) or len(found) > limit else None
            if len(found) <= limit:
                return roots, None
        return roots, place


def _redacted(root: RoomEvent) -> RoomEvent:
    """An ignored user's root, without what they said."""
    version = root.version
    pdu = encode_canonical(
        redact(orjson.loads(root.stored.pdu), version), strict=version.strict_canonical_json
    )
    return RoomEvent(root.stored._replace(pdu=pdu.decode()), root.room_id, version)
