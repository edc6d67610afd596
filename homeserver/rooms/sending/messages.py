# SPDX-License-Identifier: Apache-2.0
"""Sending an event that is no state. Client-server API, "Sending events to a room"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.errors import BadJson, DuplicateAnnotation, NotFound, Unknown
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead, SendTransaction
from homeserver.rooms.refusals import not_joined
from homeserver.rooms.sending.redactions import Redacting
from homeserver.rooms.sending.relation_rules import RelationRules
from storage.events import EventStore

REDACTION = "m.room.redaction"


class Sending:
    """Sends messages of every type."""

    def __init__(
        self, *, engine: RoomEngine, redacting: Redacting, rules: RelationRules, events: EventStore
    ) -> None:
        self._engine = engine
        self._redacting = redacting
        self._rules = rules
        self._events = events

    async def send(
        self,
        actor: Actor,
        room_id: str,
        event_type: str,
        content: Mapping[str, Any],
        transaction: SendTransaction | None = None,
    ) -> str:
        """Send an event; its id, which is the first one's for a transaction that was made before.

        A redaction sent so redacts what its content's `redacts` names. Raises Forbidden, BadJson, DuplicateAnnotation,
        Unknown for a relation that cannot be, AuthError, EventFormatError (too large), CanonicalJsonError.
        """
        if event_type == REDACTION:
            target = content.get("redacts")
            if not isinstance(target, str):
                raise BadJson("redacts must name the event to redact")
            extra = {key: value for key, value in content.items() if key != "redacts"}
            return await self._redacting.redact(actor, room_id, target, extra, transaction)
        check_not_suspended(actor)
        sender = actor.user_id
        try:
            await self._rules.check(room_id, sender, event_type, content)
        except (DuplicateAnnotation, Unknown):
            # What would be refused now was perhaps sent by this very transaction.
            sent = await self._sent_by(transaction)
            if sent is None:
                raise
            return sent
        draft = Draft(event_type, sender, content, transaction=transaction)

        def plan(head: RoomHead) -> Sequence[Draft]:
            if not head.is_joined(sender):
                raise not_joined(sender, room_id)
            return (draft,)

        try:
            written = await self._engine.write(room_id, plan, users=(sender,), transaction=transaction)
        except NotFound as error:
            raise not_joined(sender, room_id) from error
        return written.event_id

    async def _sent_by(self, transaction: SendTransaction | None) -> str | None:
        """The event of a transaction that stands."""
        if transaction is None:
            return None
        return (await self._events.ids_by_transactions((transaction.key,))).get(transaction.key)
