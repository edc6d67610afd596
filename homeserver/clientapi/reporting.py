# SPDX-License-Identifier: Apache-2.0
"""Reporting to the administrators. Client-server API, "Reporting Content"."""

from homeserver.reports import Reports
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class ReportBody(Struct, frozen=True):
    """Why. `score` is of versions before v1.18."""

    reason: str | None = None
    score: int | None = None


class ReportingEndpoints:
    """`…/report`."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def routes(self) -> tuple[Route, ...]:
        unstable = "/_matrix/client/unstable/org.matrix.msc4151/rooms/{room_id}/report"
        return (
            Route("POST", "/rooms/{room_id}/report", self.room, also=(unstable,), limit="reports"),
            Route("POST", "/rooms/{room_id}/report/{event_id}", self.event, limit="reports"),
            Route("POST", "/users/{user_id}/report", self.user, limit="reports"),
        )

    async def room(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/report`."""
        body = request.body(ReportBody, empty_ok=True)
        await self._reports.report_room(
            request.requester.user_id, request.param("room_id"), reason=body.reason
        )
        return {}

    async def event(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/report/{eventId}`."""
        body = request.body(ReportBody, empty_ok=True)
        await self._reports.report_event(
            request.requester.user_id,
            request.param("room_id"),
            request.param("event_id"),
            reason=body.reason,
            score=body.score,
        )
        return {}

    async def user(self, request: MatrixRequest) -> Reply:
        """`POST /users/{userId}/report`."""
        body = request.body(ReportBody, empty_ok=True)
        await self._reports.report_user(
            request.requester.user_id, request.param("user_id"), reason=body.reason
        )
        return {}
