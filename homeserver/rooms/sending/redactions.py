# SPDX-License-Identifier: Apache-2.0
"""Redacting an event: one's own, with the power others' too. Client-server API, "Redactions"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.errors import Forbidden, NotFound
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead, SendTransaction
from homeserver.rooms.refusals import insufficient_power, not_joined
from storage.events import EventStore, StoredEvent

_NEVER = ("m.room.create", "m.room.server_acl")
"""What a room could not do without; a redaction would leave it unusable or open to banned servers."""


class Redacting:
    """Redacts events."""

    def __init__(self, *, engine: RoomEngine, events: EventStore) -> None:
        self._engine = engine
        self._events = events

    async def redact(
        self,
        actor: Actor,
        room_id: str,
        event_id: str,
        content: Mapping[str, Any],
        transaction: SendTransaction | None = None,
    ) -> str:
        """Redact an event of the room; the redaction's id. `content` has the `reason`, if any.

        Whoever has the room's `redact` level may redact every event, server admins also their users'. Raises NotFound
        for an event that is not of the room, Forbidden, UserSuspended.
        """
        sender = actor.user_id
        room = await self._engine.cache.get(room_id)
        if room is None or not room.head.is_joined(sender):
            raise not_joined(sender, room_id)
        target = (await self._events.by_ids((event_id,))).get(event_id)
        if target is None or target.room != room.key or target.flags:
            raise NotFound("Event not found in this room")
        if target.sender != sender:
            check_not_suspended(actor)
        if target.type in _NEVER and target.state_key == "":
            raise Forbidden(f"{target.type} cannot be redacted")
        draft = Draft("m.room.redaction", sender, content, redacts=target, transaction=transaction)

        def plan(head: RoomHead) -> Sequence[Draft]:
            check_may_redact(head, actor, target)
            return (draft,)

        written = await self._engine.write(room_id, plan, users=(sender,), transaction=transaction)
        return written.event_id


def check_may_redact(head: RoomHead, actor: Actor, target: StoredEvent) -> None:
    """Raise Forbidden unless the user is in the room and may redact the event."""
    sender = actor.user_id
    if not head.is_joined(sender):
        raise not_joined(sender, head.room_id)
    levels = head.power_levels
    if not levels.may_send(sender, "m.room.redaction", is_state=False):
        raise insufficient_power("You don't have permission to redact events")
    if target.sender == sender or levels.user_level(sender) >= levels.redact:
        return
    if actor.is_admin and domain_of(target.sender) == domain_of(sender):
        return
    raise insufficient_power("You don't have permission to redact other users' events")
