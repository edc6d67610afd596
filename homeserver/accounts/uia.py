# SPDX-License-Identifier: Apache-2.0
"""User-interactive authentication: a request goes through only after the stages of one of its flows.

Owns sessions and the order of stages; what a stage asks for stands in `stages`. Client-server API,
"User-Interactive Authentication API".

A session is bound to one operation, named down to its object, and to one user; it serves one request. Nothing of the
request is kept between its attempts, as bodies hold passwords: clients send it whole each time, as the specification
says. An attempt that completes a flow in one go, without a session, needs none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from homeserver.accounts.credentials import Clock, new_secret
from homeserver.accounts.stages import Attempt, Stage
from homeserver.errors import BadJson, Forbidden, LimitExceeded, MatrixError, UiaRequired
from storage.database import Transaction
from storage.uia_sessions import UiaSession, UiaSessionStore

Flow = tuple[str, ...]
Auth = Mapping[str, Any] | None
"""The `auth` object of a request body; None: there is none."""

_LIFETIME_MS: Final = 15 * 60_000
_GONE: Final = "This authentication session is unknown, expired or meant for another request"


class Operation(Struct, frozen=True, kw_only=True):
    """What is to be authorised."""

    name: str
    """Names the operation and its object, such as `DELETE device ABC`: the same for every attempt at it."""
    user_id: str | None
    """On whose behalf; None where nobody is logged in."""
    flows: Sequence[Flow]
    """Each a sequence of stages, one of which must be gone through."""
    params: Mapping[str, Mapping[str, Any]]
    """What clients need to know for a stage, by its type."""


class Authorised(Struct, frozen=True):
    """The stages are behind the client. `session_id` None: completed in one go."""

    session_id: str | None
    registration_token: str | None = None


class Uia:
    """Asks for user-interactive authentication and judges the answers."""

    def __init__(self, sessions: UiaSessionStore, stages: Mapping[str, Stage], clock: Clock) -> None:
        """`stages` by type."""
        self._sessions = sessions
        self._stages = stages
        self._clock = clock

    async def require(self, operation: Operation, auth: Auth) -> None:
        """Return if `auth` completes the operation's authentication, whose session then is used up.

        Raises UiaRequired with what the client is to do next, BadJson for a malformed `auth`, LimitExceeded.
        """
        authorised = await self.check(operation, auth)
        session_id = authorised.session_id
        if session_id is not None and not await self._sessions.take(session_id, self._clock()):
            raise await self._ask(operation, None, Forbidden(_GONE))

    async def check(self, operation: Operation, auth: Auth) -> Authorised:
        """As `require`, but a session stays until the caller spends it with `spend_txn`."""
        if auth is None:
            raise await self._ask(operation, None)
        session = await self._session_of(operation, auth)
        stage = auth.get("type")
        if stage is not None:
            if not isinstance(stage, str):
                raise BadJson("auth.type must be a string")
            completed = [] if session is None else session.completed
            if stage not in completed:
                if stage not in _next_stages(operation.flows, completed):
                    reason = Forbidden("That stage is not the next one of any flow")
                    raise await self._ask(operation, session, reason)
                if session is None and (stage,) in operation.flows and not self._stages[stage].needs_session:
                    await self._attempt(operation, None, stage, auth)
                    return Authorised(None)
                session = session or await self._begin(operation)
                await self._attempt(operation, session, stage, auth)
                session = await self._sessions.get(session.session_id, self._clock())
        if session is None or tuple(session.completed) not in operation.flows:
            raise await self._ask(operation, session)
        return Authorised(session.session_id, session.registration_token)

    async def spend_txn(self, txn: Transaction, authorised: Authorised) -> None:
        """Use the session up in the transaction that does what it authorised.

        Raises Forbidden if another request was faster.
        """
        session_id = authorised.session_id
        if session_id is not None and not await self._sessions.take_txn(txn, session_id, self._clock()):
            raise Forbidden(_GONE)

    async def complete_elsewhere(self, session_id: str, stage: str, answer: Mapping[str, Any]) -> None:
        """Complete a stage from the fallback page, for a client that only knows its session id.

        Raises Forbidden if there is no such session, or what the stage refuses.
        """
        session = await self._sessions.get(session_id, self._clock())
        if session is None or stage not in self._stages:
            raise Forbidden(_GONE)
        if stage not in session.completed:
            await self._stages[stage].complete(Attempt(session_id, session.user_id, answer))

    async def exists(self, session_id: str) -> bool:
        """Whether a session is in force."""
        return await self._sessions.get(session_id, self._clock()) is not None

    async def _session_of(self, operation: Operation, auth: Mapping[str, Any]) -> UiaSession | None:
        session_id = auth.get("session")
        if session_id is None:
            return None
        if not isinstance(session_id, str):
            raise BadJson("auth.session must be a string")
        session = await self._sessions.get(session_id, self._clock())
        if session is None or (session.operation, session.user_id) != (operation.name, operation.user_id):
            raise await self._ask(operation, None, Forbidden(_GONE))
        return session

    async def _attempt(
        self, operation: Operation, session: UiaSession | None, stage: str, auth: Mapping[str, Any]
    ) -> None:
        session_id = None if session is None else session.session_id
        try:
            await self._stages[stage].complete(Attempt(session_id, operation.user_id, auth))
        except LimitExceeded:
            raise
        except MatrixError as reason:
            raise await self._ask(operation, session, reason) from None

    async def _begin(self, operation: Operation) -> UiaSession:
        session_id = new_secret()
        expires_ts = self._clock() + _LIFETIME_MS
        await self._sessions.add(session_id, operation.name, operation.user_id, expires_ts)
        return UiaSession(session_id, operation.name, operation.user_id, [], None)

    async def _ask(
        self, operation: Operation, session: UiaSession | None, reason: MatrixError | None = None
    ) -> UiaRequired:
        session = session or await self._begin(operation)
        return UiaRequired(
            flows=[{"stages": flow} for flow in operation.flows],
            params=operation.params,
            session=session.session_id,
            completed=session.completed,
            reason=reason,
        )


def _next_stages(flows: Sequence[Flow], completed: Sequence[str]) -> set[str]:
    """The stages that may follow `completed`, as flows are gone through in order."""
    done = len(completed)
    return {flow[done] for flow in flows if len(flow) > done and flow[:done] == tuple(completed)}
