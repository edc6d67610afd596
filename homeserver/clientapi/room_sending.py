# SPDX-License-Identifier: Apache-2.0
"""Sending events into rooms. Client-server API, "Sending events to a room", "Redactions".

Suspended users get as far as the services, which let them redact what they said themselves.
"""

from collections.abc import Callable

from homeserver.clientapi.delayed_events import asked_delay, schedule
from homeserver.errors import BadJson
from homeserver.rooms.delayed.events import DelayedEvents
from homeserver.rooms.engine import SendTransaction
from homeserver.rooms.sending.messages import Sending
from homeserver.rooms.sending.redactions import Redacting
from homeserver.rooms.sending.state import SettingState
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route


class RoomSendingEndpoints:
    """`send`, `redact` and setting `state`."""

    def __init__(
        self,
        *,
        sending: Sending,
        redacting: Redacting,
        setting_state: SettingState,
        delayed: DelayedEvents,
        active: Callable[[str], object],
    ) -> None:
        """`active` is told of users who do something (presence)."""
        self._sending = sending
        self._redacting = redacting
        self._setting_state = setting_state
        self._delayed = delayed
        self._active = active

    def routes(self) -> tuple[Route, ...]:
        state = "/rooms/{room_id}/state/{event_type}"
        return (
            Route(
                "PUT",
                "/rooms/{room_id}/send/{event_type}/{txn_id}",
                self.send,
                auth=Auth.GUEST_OK,
                limit="messages",
            ),
            Route("PUT", "/rooms/{room_id}/redact/{event_id}/{txn_id}", self.redact, limit="messages"),
            Route("PUT", state + "/{state_key}", self.set_state, auth=Auth.GUEST_OK, limit="messages"),
            Route("PUT", state, self.set_state, auth=Auth.GUEST_OK, limit="messages", trailing_slash=True),
        )

    async def send(self, request: MatrixRequest) -> Reply:
        """`PUT /rooms/{roomId}/send/{eventType}/{txnId}`; with a delay (MSC4140) it is only scheduled."""
        delay = asked_delay(request)
        if delay is not None:
            return await schedule(self._delayed, request, request.json_object(), delay, None)
        room_id, event_type = request.param("room_id"), request.param("event_type")
        self._active(request.requester.user_id)
        event_id = await self._sending.send(
            request.requester,
            room_id,
            event_type,
            request.json_object(),
            _transaction(request, f"send/{room_id}/{event_type}"),
        )
        return {"event_id": event_id}

    async def redact(self, request: MatrixRequest) -> Reply:
        """`PUT /rooms/{roomId}/redact/{eventId}/{txnId}`."""
        room_id, target = request.param("room_id"), request.param("event_id")
        reason = request.json_object(empty_ok=True).get("reason")
        if reason is not None and not isinstance(reason, str):
            raise BadJson("reason must be a string")
        event_id = await self._redacting.redact(
            request.requester,
            room_id,
            target,
            {} if reason is None else {"reason": reason},
            _transaction(request, f"redact/{room_id}/{target}"),
        )
        return {"event_id": event_id}

    async def set_state(self, request: MatrixRequest) -> Reply:
        """`PUT /rooms/{roomId}/state/{eventType}/{stateKey}`; with a delay (MSC4140) it is only scheduled."""
        delay = asked_delay(request)
        if delay is not None:
            state_key = request.param("state_key", "")
            return await schedule(self._delayed, request, request.json_object(), delay, state_key)
        event_id = await self._setting_state.set_state(
            request.requester,
            request.param("room_id"),
            request.param("event_type"),
            request.param("state_key", ""),
            request.json_object(),
        )
        return {"event_id": event_id}


def _transaction(request: MatrixRequest, scope: str) -> SendTransaction:
    requester = request.requester
    return SendTransaction(
        requester.user_id, requester.device_id or requester.user_id, scope, request.param("txn_id")
    )
