# SPDX-License-Identifier: Apache-2.0
"""`/org.lares.calls/history`: the calls a user made and missed. What it answers is told in docs/calls.md."""

from __future__ import annotations

from typing import Final

from homeserver.calls.history.calls import Outcome, Place, Since
from homeserver.calls.history.history import CallHistory, ToldCall
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route

FLAG: Final = "org.lares.calls.history"
_OUTCOMES: Final[tuple[Outcome, ...]] = ("answered", "answered_elsewhere", "declined", "missed", "failed")
_USUAL: Final = 20
_MOST: Final = 100


class CallHistoryEndpoints:
    """`/org.lares.calls/history`."""

    def __init__(self, history: CallHistory) -> None:
        self._history = history

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "GET",
                "/_matrix/client/unstable/org.lares.calls/history",
                self.get,
                under=ROOT,
                auth=Auth.GUEST_OK,
                limit="searches",
                abandon=True,
            ),
        )

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /org.lares.calls/history`."""
        query = request.query
        place, since = query.string("from"), query.string("since")
        page = await self._history.page(
            request.requester.user_id,
            limit=min(query.integer("limit", _USUAL, minimum=1), _MOST),
            before=None if place is None else Place.parse(place).position,
            since=None if since is None else Since.parse(since),
            outcome=query.enum("outcome", _OUTCOMES),
        )
        answer: dict[str, object] = {"calls": [_entry(told) for told in page.calls]}
        if page.before is not None:
            answer["next_batch"] = str(Place(page.before))
        if page.since is not None:
            answer["since"] = str(page.since)
        return answer


def _entry(told: ToldCall) -> dict[str, object]:
    """A call without what is not known of it."""
    call = told.call
    entry: dict[str, object] = {
        "call_id": call.call_id,
        "event_id": call.event_id,
        "room_id": told.room_id,
        "kind": call.kind,
        "direction": "outgoing" if call.outgoing else "incoming",
        "state": call.state,
        "started_ts": call.started_ts,
    }
    if call.kind == "group":
        entry["participants"] = call.participants
        entry["participant_count"] = call.participant_count
        entry["notified"] = call.notified
    known = {
        "peer": call.peer,
        "outcome": call.outcome,
        "reason": call.reason,
        "answered_ts": call.answered_ts,
        "ended_ts": call.ended_ts,
        "duration_ms": call.duration_ms,
        "intent": call.intent,
    }
    return entry | {key: value for key, value in known.items() if value is not None}
