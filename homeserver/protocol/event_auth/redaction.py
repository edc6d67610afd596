# SPDX-License-Identifier: Apache-2.0
"""Redactions: rule 11 of versions 1 and 2, and from version 3 the test whether a redaction is applied at
all.
"""

from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.event_auth.room_state import RoomState
from homeserver.protocol.events import Event
from homeserver.protocol.power_levels import PowerLevels


def check_redaction(event: Event, room: RoomState) -> None:
    """Versions 1 and 2: raises AuthError unless the sender's level or the event ids' common domain allows
    it.
    """
    if room.levels.user_level(event.sender) >= room.levels.redact:
        return
    target = event.redacts
    if target is not None and _domain(event.event_id) == _domain(target) != "":
        return
    raise AuthError(f"{event.sender} has not enough power to redact")


def redaction_applies(redaction: Event, target: Event, levels: PowerLevels) -> bool:
    """Versions 3+, "Handling redactions": whether a server that has both events applies one to the other.

    `levels` are those in force at the redaction. In versions 1 and 2 the authorization rule has decided
    already, and every authorized redaction in the same room applies.
    """
    if redaction.room_id != target.room_id or redaction.redacts != target.event_id:
        return False
    if redaction.room_version.redaction_auth_rule or levels.user_level(redaction.sender) >= levels.redact:
        return True
    return _domain(redaction.sender) == _domain(target.sender)


def _domain(identifier: str) -> str:
    return identifier.partition(":")[2]
