# SPDX-License-Identifier: Apache-2.0
"""Events in memory and how clients see them."""

from homeserver.events.room_event import RoomEvent

__all__ = ["RoomEvent"]
