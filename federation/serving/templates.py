# SPDX-License-Identifier: Apache-2.0
"""Templates of member events for other servers to fill in and sign: what `make_join`, `make_leave`, `make_knock` share.

The event is built and authorized on the room's newest head as one of ours would be, and nothing is written. What is
given away has neither hash nor signature.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from federation.serving.offered import check_own_user
from homeserver.errors import IncompatibleRoomVersion
from homeserver.needs import Protocol
from homeserver.protocol.events import Event
from homeserver.rooms.engine import Plan, Room
from homeserver.rooms.server_access import ServerGate

_NOT_OURS_TO_SAY = ("hashes", "signatures", "unsigned", "event_id")


class Prepared(Protocol):
    """An event that could be written."""

    @property
    def event(self) -> Event: ...


class Preparing(Protocol):
    """`homeserver.rooms.intake.RoomIntake`, as far as it is used here."""

    async def prepare(self, room_id: str, plan: Plan, users: Sequence[str] = ()) -> Prepared: ...


class Templates:
    """One per process."""

    def __init__(self, *, server_name: str, gate: ServerGate, intake: Preparing) -> None:
        self._server_name = server_name
        self._gate = gate
        self._intake = intake

    async def room(
        self, origin: str, room_id: str, user_id: str, versions: Collection[str] | None = None
    ) -> Room:
        """The room of a handshake for a user of the server that asks, which speaks those room versions (None: it did
        not say).

        Raises NotFound, Forbidden, InvalidParam, IncompatibleRoomVersion.
        """
        check_own_user(origin, user_id)
        room = await self._gate.resident_room(origin, room_id)
        version = str(room.head.version)
        if versions is not None and version not in versions:
            raise IncompatibleRoomVersion(version, f"Your server does not speak room version {version}")
        return room

    async def template(self, room: Room, plan: Plan, *users: str) -> dict[str, Any]:
        """The answer with the template of the plan's one event. Raises what the plan raises, and AuthError."""
        prepared = await self._intake.prepare(room.room_id, plan, users)
        event = {key: value for key, value in prepared.event.pdu.items() if key not in _NOT_OURS_TO_SAY}
        event["origin"] = self._server_name
        return {"room_version": str(room.head.version), "event": event}
