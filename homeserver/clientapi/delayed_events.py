# SPDX-License-Identifier: Apache-2.0
"""Events that are sent later, MSC4140. Owns the many spellings that its revisions gave to clients.

Managing an event takes no token: the delay id is the proof, so that a call service can be given it. The action stands
in the path or in the body. A list of events has them under every name that clients look for, and never a `next_batch`,
after which some would ask for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.errors import BadJson, InvalidParam, MissingParam, NotFound, Unrecognized
from homeserver.rooms.delayed.events import DelayedEvents
from homeserver.rooms.engine import SendTransaction
from homeserver.web.rate_limits import RateLimits
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route
from storage.delayed_events import DelayedEvent

PREFIX: Final = "/_matrix/client/unstable/org.matrix.msc4140"
_DELAY: Final = "org.matrix.msc4140.delay"
_PARENT: Final = "org.matrix.msc4140.parent_delay_id"
_LONGEST_ID: Final = 255


class DelayedEventEndpoints:
    """`/delayed_events` and what is below it; `/rooms/{roomId}/delayed_event/{eventType}/{txnId}`."""

    def __init__(self, events: DelayedEvents, limits: RateLimits) -> None:
        self._events = events
        self._limits = limits
        self._actions = {"restart": events.restart, "cancel": events.cancel, "send": events.send}

    def routes(self) -> tuple[Route, ...]:
        one, updates = PREFIX + "/delayed_events/{delay_id}", "delayed_event_updates"
        return (
            Route(
                "PUT",
                PREFIX + "/rooms/{room_id}/delayed_event/{event_type}/{txn_id}",
                self.schedule,
                under=ROOT,
                auth=Auth.GUEST_OK,
                limit="messages",
            ),
            Route("GET", PREFIX + "/delayed_events", self.list, under=ROOT, auth=Auth.GUEST_OK),
            Route("GET", one, self.get, under=ROOT, auth=Auth.GUEST_OK),
            Route("POST", one, self.update, under=ROOT, auth=Auth.NONE, limit=updates),
            Route("POST", one + "/{action}", self.act, under=ROOT, auth=Auth.NONE, limit=updates),
        )

    async def schedule(self, request: MatrixRequest) -> Reply:
        """`PUT /rooms/{roomId}/delayed_event/{eventType}/{txnId}`."""
        body = request.json_object()
        delay = body.get("delay_ms", body.get("delay"))
        content, state_key = body.get("content"), body.get("state_key")
        if delay is None or content is None:
            raise MissingParam("delay_ms and content are required")
        if type(delay) is not int or not isinstance(content, dict):
            raise BadJson("delay_ms must be an integer, content an object")
        if state_key is not None and not isinstance(state_key, str):
            raise BadJson("state_key must be a string")
        return await schedule(self._events, request, content, delay, state_key)

    async def update(self, request: MatrixRequest) -> Reply:
        """`POST /delayed_events/{delayId}`, the action in the body."""
        action = request.json_object().get("action")
        if action is None:
            raise MissingParam("action is missing")
        if not isinstance(action, str) or action not in self._actions:
            raise InvalidParam("action must be one of restart, cancel, send")
        return await self._act(request, action)

    async def act(self, request: MatrixRequest) -> Reply:
        """`POST /delayed_events/{delayId}/{action}`. The body is for extensions."""
        action = request.param("action")
        if action not in self._actions:
            raise Unrecognized
        return await self._act(request, action)

    async def _act(self, request: MatrixRequest, action: str) -> Reply:
        delay_id = _delay_id(request)
        self._limits.check("delayed_event", delay_id)
        await self._actions[action](delay_id)
        return {}

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /delayed_events/{delayId}`."""
        event = await self._events.get(request.requester.user_id, _delay_id(request))
        return JsonBytes(orjson.dumps(_described(event)))

    async def list(self, request: MatrixRequest) -> Reply:
        """`GET /delayed_events`; `status` is `scheduled` or `finalised`, `delay_id` may stand several times."""
        status = request.query.enum("status", ("scheduled", "finalised"))
        wanted = request.query.strings("delay_id") or None
        user_id = request.requester.user_id
        answer: dict[str, object] = {}
        if status != "scheduled":
            finalised = await self._events.finalised(user_id, wanted)
            answer["finalised"] = [_finalised(event) for event in finalised]
            answer["delayed_events"] = [_described(event) for event in finalised]
        if status != "finalised":
            scheduled = [_described(event) for event in await self._events.scheduled(user_id, wanted)]
            answer["scheduled"] = answer["delayed_events"] = scheduled
        return JsonBytes(orjson.dumps(answer))


async def schedule(
    events: DelayedEvents,
    request: MatrixRequest,
    content: Mapping[str, Any],
    delay_ms: int,
    state_key: str | None,
) -> Reply:
    """Schedule the event that a request's path and these describe."""
    room_id, event_type = request.param("room_id"), request.param("event_type")
    requester, txn_id = request.requester, request.param("txn_id", "")
    transaction = None
    if txn_id:
        device = requester.device_id or requester.user_id
        transaction = SendTransaction(requester.user_id, device, f"delay/{room_id}/{event_type}", txn_id)
    delay_id = await events.schedule(
        requester,
        room_id,
        event_type,
        content,
        delay_ms=delay_ms,
        state_key=state_key,
        transaction=transaction,
    )
    return {"delay_id": delay_id}


def asked_delay(request: MatrixRequest) -> int | None:
    """The milliseconds by which `send` or `state` is to be put off; None: it is not. Raises InvalidParam."""
    if request.query.has(_PARENT):
        raise InvalidParam("Delays that hang on another are not supported")
    return request.query.integer(_DELAY)


def _delay_id(request: MatrixRequest) -> str:
    delay_id = request.param("delay_id")
    if len(delay_id) > _LONGEST_ID:
        raise NotFound("There is no such delayed event")
    return delay_id


def _described(event: DelayedEvent) -> dict[str, object]:
    """An event as the revisions of the proposal describe it, one on top of the other."""
    described = _original(event)
    if event.finalised_ts is None:
        return described
    became = _became(event)
    return {
        **described,
        **became,
        "origin_server_ts": event.finalised_ts,
        "finalised": became,
    }


def _original(event: DelayedEvent) -> dict[str, object]:
    original: dict[str, object] = {
        "delay_id": event.delay_id,
        "room_id": event.room_id,
        "type": event.type,
        "content": orjson.Fragment(event.content),
        "delay": event.delay_ms,
        "delay_ms": event.delay_ms,
        "running_since": event.scheduled_ts,
        "delayed_since_ts": event.scheduled_ts,
        "scheduled_at": event.scheduled_ts,
    }
    if event.state_key is not None:
        original["state_key"] = event.state_key
    return original


def _became(event: DelayedEvent) -> dict[str, object]:
    became: dict[str, object] = {"finalised_ts": event.finalised_ts}
    if event.event_id is not None:
        became["event_id"] = event.event_id
    elif event.error is not None:
        became["error"] = orjson.Fragment(event.error)
    return became


def _finalised(event: DelayedEvent) -> dict[str, object]:
    """An entry of `finalised`, whose clients want the original apart."""
    reason = "error" if event.error is not None else "action" if event.by_action else "delay"
    return {
        **_described(event),
        "delayed_event": _original(event),
        "outcome": "cancel" if event.event_id is None else "send",
        "reason": reason,
    }
