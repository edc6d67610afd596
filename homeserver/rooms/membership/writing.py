# SPDX-License-Identifier: Apache-2.0
"""Writing one member event, or finding that the one there already says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homeserver.errors import NotFound
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.refusals import not_joined

MEMBER = "m.room.member"

MemberPlan = Callable[[RoomHead], Draft | None]
"""The member event to write; None if the present one stands for it. May raise to refuse."""


async def write_member(engine: RoomEngine, room_id: str, sender: str, user_id: str, plan: MemberPlan) -> str:
    """Run the plan; the id of the member event that then stands.

    A room that is not known is refused in the words for one that the sender is not in. Raises what the plan raises
    and AuthError.
    """
    standing: list[str] = []

    def whole(head: RoomHead) -> Sequence[Draft]:
        draft = plan(head)
        if draft is not None:
            return (draft,)
        entry = engine.member_event(head, user_id)
        standing[:] = [] if entry is None else [entry.stored.event_id]
        return ()

    try:
        written = await engine.write(room_id, whole, users=tuple({sender, user_id}))
    except NotFound as error:
        raise not_joined(sender, room_id) from error
    return written.event_id if written.events else standing[0]


def require_joined(head: RoomHead, user_id: str) -> None:
    """Raise Forbidden unless the user is in the room."""
    if not head.is_joined(user_id):
        raise not_joined(user_id, head.room_id)
