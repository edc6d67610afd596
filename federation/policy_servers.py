# SPDX-License-Identifier: Apache-2.0
"""Asking policy servers for their signatures (server-server API, "Asking for a Policy Server signature on an event").

Owns for how long and how often they are asked, what is remembered of it, that a signature holds before anybody uses it,
and what a client is told of a refusal. Does not own when a signature is needed, nor what becomes of an event without
one: that is the rooms'. This server is no policy server itself.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from prometheus_client import Counter
from twisted.internet.defer import DeferredSemaphore

from federation.client.errors import RemoteError, RemoteFailure
from federation.inbound.parallel import in_parallel
from homeserver.errors import Forbidden, LimitExceeded, MatrixError, RefusedElsewhere, RemoteServerFailed
from homeserver.needs import Protocol
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.policy_servers import PolicyServer
from homeserver.rooms.engine.recommending import Refusal
from homeserver.web.rate_limits import Buckets, Limit

log = logging.getLogger(__name__)

_ASKED: Final = Counter(
    "lares_policy_server_requests", "Signatures asked of policy servers, by outcome", ["outcome"]
)

PATIENCE: Final = 10.0
"""Seconds for one answer."""
RECEIVED_PATIENCE: Final = 10.0
"""Seconds after which no more of the events of others that came together are asked about in one go."""
RECEIVED_AT_ONCE: Final = 4
"""Requests about other servers' events under way with one policy server. Of the eight connections there are with it,
the rest is for events of ours, whose senders wait."""
RECEIVED_LIMIT: Final = Limit(per_second=10, burst=500)
"""Events that we ask about, by the server that sent them without a signature. There are servers that do not know of
policy servers, and their users are heard; but nobody has this server flood another."""
FIRST_REST: Final = 5.0
LONGEST_REST: Final = 60.0
"""Seconds that a policy server that did not answer is not asked again; doubled from failure to failure."""
MOST_RESTING: Final = 1000
REMEMBERED: Final = 10_000
"""Answers about events of others: the same event comes by several ways, and is judged more than once."""
REMEMBERED_FOR: Final = 600.0
MOST_RETRY_AFTER: Final = 60_000
"""Milliseconds that a client is told to wait at most: it may hold back all it has to send."""

_AS_ANSWERED: Final = frozenset({400, 403, 404, 429})
_ABOUT_THE_SESSION: Final = frozenset(
    {
        "M_UNKNOWN_TOKEN",
        "M_MISSING_TOKEN",
        "M_UNAUTHORIZED",
        "M_USER_LOCKED",
        "M_USER_SUSPENDED",
        "M_USER_DEACTIVATED",
        "M_CONSENT_NOT_GIVEN",
    }
)
"""Codes by which clients log out or lock their user out, whatever the status: not a policy server's to say."""


class SigningCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def policy_sign(self, destination: str, pdu: Mapping[str, Any], *, timeout: float) -> str: ...


class FederatedPolicyServers:
    """One per process; see `homeserver.rooms.engine.recommending.PolicyServers`."""

    def __init__(self, *, server_name: str, calls: SigningCalls, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self._server_name = server_name
        self._calls = calls
        self._clock = clock
        self._resting: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Policy servers that failed: until when they are not asked, and how long that is."""
        self._turns: dict[str, DeferredSemaphore] = {}
        self._answers: OrderedDict[tuple[str, PolicyServer], tuple[float, str | Refusal]] = OrderedDict()
        self._limits = Buckets(RECEIVED_LIMIT)

    async def sign(self, policy_server: PolicyServer, event: Event) -> str:
        """As `PolicyServers.sign`."""
        self._check_askable(policy_server)
        try:
            return await self._ask(policy_server, event, PATIENCE)
        except RemoteFailure as failure:
            raise _told(failure) from failure

    def _check_askable(self, policy_server: PolicyServer) -> None:
        """Raise what the client is told where there is no point in asking."""
        if policy_server.via == self._server_name:
            # Nobody's signature will do, so that only a change of the event that names it opens the room again.
            raise Forbidden(
                "The room names this server as its policy server, which it is not: change m.room.policy"
            )
        if policy_server.key is None:
            raise Forbidden("The room's policy server has no usable key: change m.room.policy")
        if self._is_resting(policy_server.via):
            raise RemoteServerFailed(f"The room's policy server {policy_server.via} did not answer just now")

    # Events of others

    async def sign_received(
        self, policy_server: PolicyServer, events: Sequence[Event]
    ) -> Mapping[str, str | Refusal]:
        """As `PolicyServers.sign_received`."""
        answers: dict[str, str | Refusal] = {}
        unknown: list[Event] = []
        for event in events:
            remembered = self._remembered(policy_server, event)
            if remembered is not None:
                answers[event.event_id] = remembered
            elif self._limits.wait(domain_of(event.sender), self._clock()) > 0:
                answers[event.event_id] = Refusal(
                    "its server sends too much without the policy server's signature"
                )
            else:
                self._limits.take(domain_of(event.sender), self._clock())
                unknown.append(event)
        deadline = self._clock() + RECEIVED_PATIENCE

        async def ask(event: Event) -> None:
            answer = await self._in_turn(policy_server, event, deadline)
            if answer is not None:
                answers[event.event_id] = answer

        await in_parallel(ask, unknown, RECEIVED_AT_ONCE)
        return answers

    async def _in_turn(
        self, policy_server: PolicyServer, event: Event, deadline: float
    ) -> str | Refusal | None:
        """Rooms that share a policy server share its connections."""
        via = policy_server.via
        turns = self._turns.setdefault(via, DeferredSemaphore(RECEIVED_AT_ONCE))
        await turns.acquire()
        try:
            return await self._answer(policy_server, event, deadline)
        finally:
            turns.release()
            if turns.tokens == turns.limit:
                self._turns.pop(via, None)

    async def _answer(
        self, policy_server: PolicyServer, event: Event, deadline: float
    ) -> str | Refusal | None:
        """None if there was no time left to ask."""
        if self._clock() >= deadline:
            return None
        try:
            self._check_askable(policy_server)
            answer: str | Refusal = await self._ask(policy_server, event, PATIENCE)
        except RemoteError as error:
            answer = Refusal(f"the room's policy server refuses it: {error.error or error.errcode}")
            if error.status not in _AS_ANSWERED or error.status == 429:
                return answer  # it may say something else later
        except RemoteFailure as failure:
            return Refusal(f"the room's policy server cannot say: {failure.reason}")
        except MatrixError as error:
            return Refusal(error.message)
        self._remember(policy_server, event, answer)
        return answer

    def _remembered(self, policy_server: PolicyServer, event: Event) -> str | Refusal | None:
        found = self._answers.get((event.event_id, policy_server))
        return found[1] if found is not None and found[0] > self._clock() else None

    def _remember(self, policy_server: PolicyServer, event: Event, answer: str | Refusal) -> None:
        self._answers[event.event_id, policy_server] = self._clock() + REMEMBERED_FOR, answer
        while len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)

    # Asking

    async def _ask(self, policy_server: PolicyServer, event: Event, timeout: float) -> str:
        """A signature that holds. Raises RemoteFailure."""
        via = policy_server.via
        try:
            signature = await self._calls.policy_sign(via, event.pdu, timeout=timeout)
        except RemoteError as error:
            _ASKED.labels("refused" if error.status in _AS_ANSWERED else "failed").inc()
            if error.status >= 500:
                self._failed(via)
            else:
                self._resting.pop(via, None)
            raise
        except RemoteFailure:
            _ASKED.labels("failed").inc()
            self._failed(via)
            raise
        self._resting.pop(via, None)
        if not policy_server.verifies(event, signature):
            _ASKED.labels("bad").inc()
            raise RemoteFailure(via, "its signature is not by the key that the room knows")
        _ASKED.labels("signed").inc()
        return signature

    def _is_resting(self, via: str) -> bool:
        until, _ = self._resting.get(via, (0.0, 0.0))
        return until > self._clock()

    def _failed(self, via: str) -> None:
        """Those asked at the same time fail together, and count once."""
        if self._is_resting(via):
            return
        _, before = self._resting.get(via, (0.0, 0.0))
        rest = min(LONGEST_REST, before * 2) if before else FIRST_REST
        self._resting[via] = self._clock() + rest, rest
        self._resting.move_to_end(via)
        while len(self._resting) > MOST_RESTING:
            self._resting.popitem(last=False)


def _told(failure: RemoteFailure) -> MatrixError:
    """What the client is told: what the policy server answered, or that nobody knows what it would."""
    if not isinstance(failure, RemoteError) or failure.status >= 500:
        return RemoteServerFailed(
            f"The room's policy server {failure.destination} did not sign the event, without which it cannot be sent"
        )
    message = failure.error or "The room's policy server does not allow this"
    wait = _retry_after(failure)
    if failure.status == 429 and failure.errcode == "M_LIMIT_EXCEEDED" and wait is not None:
        return LimitExceeded(wait, message)
    errcode = "M_FORBIDDEN" if failure.errcode in _ABOUT_THE_SESSION else failure.errcode
    fields = {} if wait is None else {"retry_after_ms": wait}
    return RefusedElsewhere(
        failure.status if failure.status in _AS_ANSWERED else 403, errcode, message, **fields
    )


def _retry_after(error: RemoteError) -> int | None:
    value = error.body.get("retry_after_ms") if isinstance(error.body, dict) else None
    return min(max(value, 0), MOST_RETRY_AFTER) if type(value) is int else None
