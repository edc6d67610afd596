# SPDX-License-Identifier: Apache-2.0
"""Whether an event from outside may be, step by step: by its form here, by what it cites, by a state.

Server-server API, "Checks performed on receipt of a PDU" (4 to 6). Pure: a reason to refuse, or none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from homeserver.events import RoomEvent
from homeserver.protocol.event_auth import AuthError, check_auth_events, check_event_auth
from homeserver.protocol.events import Event, is_create
from homeserver.rooms.engine import RoomHead
from homeserver.rooms.engine.head import StateKey
from homeserver.rooms.intake.ground import CREATE
from storage.events import REJECTED

logger = logging.getLogger(__name__)


def misfit(event: Event, head: RoomHead) -> str:
    """Why the event cannot even be stored in the room as rejected; empty if it can."""
    if event.room_id != head.room_id or event.room_version is not head.version:
        return "the event is of another room"
    if any("\0" in text for text in (event.event_id, event.type, event.sender, event.state_key or "")):
        return "NUL in the event's type or state key"
    if is_create(event.pdu):
        create = head.state_event("m.room.create")
        if create is None or create.stored.event_id != event.event_id:
            return "the room has another m.room.create event"
    elif not event.prev_event_ids:
        return "the event is the beginning of nothing"
    return ""


def refused_by_citation(event: Event, cited: Sequence[RoomEvent], create: Event | None) -> str:
    """Why the events it cites do not let it be (check 4); `create` is the room's, where it is not cited."""
    rejected = {entry.stored.event_id for entry in cited if entry.stored.flags & REJECTED}
    auth_state: dict[StateKey, Event] = {} if create is None else {CREATE: create}

    def check() -> None:
        check_auth_events(event, [entry.event for entry in cited], rejected)
        auth_state.update((e.event.state_tuple, e.event) for e in cited if e.event.state_key is not None)
        check_event_auth(event, auth_state)

    return _reason(event, check)


def refused_by_state(event: Event, auth_state: Mapping[StateKey, Event]) -> str:
    """Why a state does not let it be (checks 5 and 6)."""
    return _reason(event, lambda: check_event_auth(event, auth_state))


def _reason(event: Event, check: Callable[[], None]) -> str:
    try:
        check()
    except AuthError as error:
        return str(error) or "not allowed"
    except Exception as error:  # what no rule foresees is no reason to let it in, nor to fail with others
        logger.warning("%r cannot be judged", event, exc_info=True)
        return f"cannot be judged: {type(error).__name__}"
    return ""
