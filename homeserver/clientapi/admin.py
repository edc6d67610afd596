# SPDX-License-Identifier: Apache-2.0
"""Server administration: whois, locking and suspending accounts. Client-server API, "Server administration".

The unstable paths are those of MSC4323, which some clients prefer while its flag is advertised.
"""

from homeserver.accounts.moderation import Moderation, Standing
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route
from storage.devices import Device

UNSTABLE_FLAG = "uk.timedout.msc4323"
_UNSTABLE = f"/_matrix/client/unstable/{UNSTABLE_FLAG}/admin"


class LockBody(Struct, frozen=True):
    """`PUT /admin/lock/{userId}`."""

    locked: bool


class SuspendBody(Struct, frozen=True):
    """`PUT /admin/suspend/{userId}`."""

    suspended: bool


class AdminEndpoints:
    """`/admin/…`. Who may call is the service's to judge: a user may look themselves up."""

    def __init__(self, moderation: Moderation) -> None:
        self._moderation = moderation

    def routes(self) -> tuple[Route, ...]:
        lock, suspend = (f"{_UNSTABLE}/lock/{{user_id}}",), (f"{_UNSTABLE}/suspend/{{user_id}}",)
        return (
            Route(
                "GET",
                "/admin/whois/{user_id}",
                self.whois,
                also=("/_synapse/admin/v1/whois/{user_id}",),
            ),
            Route("GET", "/admin/lock/{user_id}", self.is_locked, also=lock),
            Route("PUT", "/admin/lock/{user_id}", self.lock, also=lock),
            Route("GET", "/admin/suspend/{user_id}", self.is_suspended, also=suspend),
            Route("PUT", "/admin/suspend/{user_id}", self.suspend, also=suspend),
        )

    async def whois(self, request: MatrixRequest) -> Reply:
        """`GET /admin/whois/{userId}`."""
        user_id = request.param("user_id")
        devices = await self._moderation.whois(request.requester, user_id)
        return {
            "user_id": user_id,
            "devices": {
                device.device_id: {"sessions": [{"connections": _connections(device)}]} for device in devices
            },
        }

    async def is_locked(self, request: MatrixRequest) -> Reply:
        """`GET /admin/lock/{userId}`."""
        return {"locked": await self._standing(request, "locked")}

    async def lock(self, request: MatrixRequest) -> Reply:
        """`PUT /admin/lock/{userId}`."""
        locked = request.body(LockBody).locked
        await self._set_standing(request, "locked", locked)
        return {"locked": locked}

    async def is_suspended(self, request: MatrixRequest) -> Reply:
        """`GET /admin/suspend/{userId}`."""
        return {"suspended": await self._standing(request, "suspended")}

    async def suspend(self, request: MatrixRequest) -> Reply:
        """`PUT /admin/suspend/{userId}`."""
        suspended = request.body(SuspendBody).suspended
        await self._set_standing(request, "suspended", suspended)
        return {"suspended": suspended}

    async def _standing(self, request: MatrixRequest, standing: Standing) -> bool:
        return await self._moderation.standing(request.requester, request.param("user_id"), standing)

    async def _set_standing(self, request: MatrixRequest, standing: Standing, value: bool) -> None:
        user_id = request.param("user_id")
        await self._moderation.set_standing(request.requester, user_id, standing, value)


def _connections(device: Device) -> list[dict[str, object]]:
    if device.last_seen_ts is None:
        return []
    return [
        {
            "ip": device.last_seen_ip,
            "last_seen": device.last_seen_ts,
            "user_agent": device.last_seen_user_agent,
        }
    ]
