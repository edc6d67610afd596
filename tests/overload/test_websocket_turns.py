# SPDX-License-Identifier: Apache-2.0
"""Requests over a WebSocket take their turns as those over HTTP do, and are refused as those are."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.clientapi.websocket.frames import Call
from homeserver.clientapi.websocket.methods import Methods, MethodServices
from homeserver.errors import LimitExceeded
from homeserver.web.authentication import Requester
from homeserver.web.kinds import Kind
from homeserver.web.lane import MOST_OF_USER
from homeserver.web.rate_limits import RateLimits
from tests.overload.test_admission import Busy

ALICE = Requester(user_id="@alice:test", device_id="D")
SEND = {"room_id": "!room:test", "event_type": "m.room.message", "content": {}}


class Sending:
    """Sends without doing so."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, *arguments: Any) -> str:
        self.sent.append(arguments[1])
        return "$event"

    def active(self, user_id: str) -> None:
        """As presence hears of it."""


def test_a_call_waits_for_its_turn_and_gives_it_back() -> None:
    sending: Any = Sending()
    services = MethodServices(
        sending=sending, setting_state=sending, typing=sending, receipts=sending, presence=sending
    )
    busy = Busy()
    methods = Methods(services, RateLimits(busy.clock.seconds, enabled=False), busy.admission)
    busy.fill()
    results: list[Any] = []
    failures: list[Failure] = []

    def call(method: str, params: dict[str, Any]) -> None:
        answering = Deferred.fromCoroutine(methods.call(ALICE, Call(id="1", method=method, params=params)))
        answering.addCallbacks(results.append, failures.append)

    call("send", SEND)
    assert sending.sent == []
    call("ping", {})
    assert results == [{}]
    busy.done()
    assert sending.sent == ["!room:test"]
    assert results[-1] == {"event_id": "$event"}
    busy.ask("somebody")
    assert busy.users[-1] == "somebody", "the place is free again"
    for _ in range(MOST_OF_USER[Kind.ORDINARY] + 1):
        call("send", SEND)
    (refused,) = failures
    assert isinstance(refused.value, LimitExceeded)
