# SPDX-License-Identifier: Apache-2.0
"""Event authorization: whether a room's rules let an event into it, for room versions 1 to 12.

Pure: state events in, an `AuthError` or nothing out. Finding the state, verifying keys and deciding what
becomes of a rejected event belong to the callers. Specification: "Authorisation rules" of each room version.
"""

from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.event_auth.general import check_event_auth
from homeserver.protocol.event_auth.redaction import redaction_applies
from homeserver.protocol.event_auth.selection import auth_types_for, check_auth_events

__all__ = [
    "AuthError",
    "auth_types_for",
    "check_auth_events",
    "check_event_auth",
    "redaction_applies",
]
