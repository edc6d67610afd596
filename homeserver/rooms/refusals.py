# SPDX-License-Identifier: Apache-2.0
"""Refusals that bridges tell apart: by MSC3848's code where they know it, else by words in the message.

The words "is already in the room" and "not in room" are looked for by deployed clients and must stay.
"""

from __future__ import annotations

from homeserver.errors import Forbidden, NotFound

_CODE = "org.matrix.msc3848.unstable.errcode"


def already_joined(user_id: str) -> Forbidden:
    """An invite for somebody who is there."""
    return Forbidden(f"{user_id} is already in the room.", **{_CODE: "ORG.MATRIX.MSC3848.ALREADY_JOINED"})


def not_joined(user_id: str, room_id: str) -> Forbidden:
    """Only members may do it, or it may only be done to members."""
    return Forbidden(f"User {user_id} not in room {room_id}", **{_CODE: "ORG.MATRIX.MSC3848.NOT_JOINED"})


def insufficient_power(message: str) -> Forbidden:
    """The power levels say no."""
    return Forbidden(message, **{_CODE: "ORG.MATRIX.MSC3848.INSUFFICIENT_POWER"})


def unknown_room(room_id: str) -> NotFound:
    """A room this server has no part in, and no way to reach."""
    return NotFound(f"Room {room_id} is not known to this server")
