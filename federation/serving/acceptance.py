# SPDX-License-Identifier: Apache-2.0
"""Taking a member event that another server's user signed into the room: what `send_join`, `send_leave`, `send_knock`
share.

The room gets it as it gets any event from outside, and this server spreads it to the others there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from homeserver.errors import Forbidden, InvalidParam
from homeserver.needs import Protocol
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from storage.events import REJECTED, SOFT_FAILED


class Receiving(Protocol):
    """`homeserver.rooms.intake.RoomIntake`, as far as it is used here."""

    async def receive(
        self, room_id: str, events: Sequence[Incoming], *, outbound: bool = False, users: Sequence[str] = ()
    ) -> list[Verdict]: ...

    async def standing(self, event_ids: Sequence[str]) -> Mapping[str, int]: ...


async def accept(intake: Receiving, incoming: Incoming) -> None:
    """Have the event stand in its room, now or from before (a repeated request).

    Raises Forbidden if the room's rules do not allow it, InvalidParam if it builds on events that are not known here:
    then it was not made from a template of this server, and its maker has nothing to fetch them from.
    """
    event = incoming.event
    (verdict,) = await intake.receive(event.room_id, (incoming,), outbound=True, users=(event.sender,))
    match verdict.outcome:
        case Outcome.ACCEPTED:
            return
        case Outcome.KNOWN:
            flags = (await intake.standing((event.event_id,))).get(event.event_id, REJECTED)
            if flags & (REJECTED | SOFT_FAILED):
                raise Forbidden("The room does not allow this")
        case Outcome.MISSING:
            raise InvalidParam("The event builds on events that are not known here")
        case Outcome.REJECTED | Outcome.SOFT_FAILED:
            raise Forbidden(verdict.reason or "The room does not allow this")
