# SPDX-License-Identifier: Apache-2.0
"""What the requester may do here. Client-server API, "Capabilities negotiation"."""

from homeserver.config.sections import DelayedEvents
from homeserver.protocol.room_versions import STABLE_ROOM_VERSIONS
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class CapabilityEndpoints:
    """`/capabilities`."""

    def __init__(self, default_room_version: str, delayed_events: DelayedEvents) -> None:
        self._capabilities: dict[str, object] = {
            "m.change_password": {"enabled": True},
            "m.room_versions": {
                "default": default_room_version,
                "available": dict.fromkeys(STABLE_ROOM_VERSIONS, "stable"),
            },
            "m.set_displayname": {"enabled": True},
            "m.set_avatar_url": {"enabled": True},
            "m.3pid_changes": {"enabled": False},
            "m.get_login_token": {"enabled": True},
            "m.profile_fields": {"enabled": True},
            "uk.tcpip.msc4133.profile_fields": {"enabled": True},
            "org.matrix.msc4140.delayed_events": {
                "max_delay_ms": int(delayed_events.max_delay * 1000),
                "max_scheduled": delayed_events.max_per_user,
            },
        }
        self._of_admins = {
            **self._capabilities,
            "m.account_moderation": {"lock": True, "suspend": True},
            "uk.timedout.msc4323": {"lock": True, "suspend": True},
        }

    def routes(self) -> tuple[Route, ...]:
        return (Route("GET", "/capabilities", self.get),)

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /capabilities`."""
        return {"capabilities": self._of_admins if request.requester.is_admin else self._capabilities}
