# SPDX-License-Identifier: Apache-2.0
"""Who is about.

`person` decides what a user's devices amount to, `sharing` who may know, `board` keeps and shows what was published,
`publication` moves it there, `peers` and `messages` are what processes tell each other, `service` is the door.
"""

from homeserver.presence.board import Board
from homeserver.presence.publication import NobodyElsewhere, PresenceElsewhere
from homeserver.presence.service import Presence, RemotePresence
from homeserver.presence.sharing import Sharing

__all__ = ["Board", "NobodyElsewhere", "Presence", "PresenceElsewhere", "RemotePresence", "Sharing"]
