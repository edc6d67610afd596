# SPDX-License-Identifier: Apache-2.0
"""What the services reach other servers by, as one value: with federation, or without."""

from __future__ import annotations

from dataclasses import dataclass

from homeserver.presence.publication import NobodyElsewhere as NoPresence
from homeserver.presence.publication import PresenceElsewhere
from homeserver.receipts.service import NobodyElsewhere as NoReceipts
from homeserver.receipts.service import ReceiptsElsewhere
from homeserver.rooms.remote import NoRemoteRooms, RemoteRooms
from homeserver.typing.service import NobodyElsewhere as NoTyping
from homeserver.typing.service import TypingElsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Each for the service that declares it."""

    rooms: RemoteRooms
    typing: TypingElsewhere
    receipts: ReceiptsElsewhere
    presence: PresenceElsewhere


def nowhere_else() -> Elsewhere:
    """For a server that does not federate."""
    return Elsewhere(rooms=NoRemoteRooms(), typing=NoTyping(), receipts=NoReceipts(), presence=NoPresence())
