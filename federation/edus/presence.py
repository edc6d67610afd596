# SPDX-License-Identifier: Apache-2.0
"""`m.presence` of other servers (server-server API, "Presence")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.needs import Protocol
from homeserver.presence import RemotePresence
from homeserver.presence.person import STATES
from homeserver.protocol.identifiers import domain_of, is_valid_user_id

MOST_USERS = 500
"""Of one unit; what is beyond is left out."""
MOST_STATUS = 500
LONGEST_AGO = 2**53 - 1


class Presence(Protocol):
    """What is needed of `homeserver.presence.Presence`."""

    async def receive(self, told: Sequence[RemotePresence]) -> None: ...


class PresenceEdus:
    """Takes presence of users who are the origin's. Whom it concerns is the service's to know."""

    def __init__(self, *, presence: Presence) -> None:
        self._presence = presence

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """One unit."""
        push = content.get("push")
        if not isinstance(push, list):
            return
        told: dict[str, RemotePresence] = {}
        for update in push[:MOST_USERS]:
            read = _read(origin, update)
            if read is not None:
                told[read.user_id] = read
        if told:
            await self._presence.receive(list(told.values()))


def _read(origin: str, update: object) -> RemotePresence | None:
    """An update that is well formed and the origin's to tell."""
    if not isinstance(update, dict):
        return None
    user_id, presence, status = update.get("user_id"), update.get("presence"), update.get("status_msg")
    if not isinstance(user_id, str) or not is_valid_user_id(user_id) or domain_of(user_id) != origin:
        return None
    state = next((each for each in STATES if each == presence), None)
    if state is None:
        return None
    if not isinstance(status, str) or "\0" in status or not status:
        status = None
    ago = update.get("last_active_ago")
    return RemotePresence(
        user_id,
        state,
        None if status is None else status[:MOST_STATUS],
        ago if type(ago) is int and 0 <= ago <= LONGEST_AGO else None,
    )
