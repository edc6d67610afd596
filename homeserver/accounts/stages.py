# SPDX-License-Identifier: Apache-2.0
"""The stages of user-interactive authentication this server offers.

Owns what each asks for and how its completion is noted; which ones an operation needs, and in which order, is `uia`'s
and its callers'. Client-server API, "Authentication types".
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from homeserver.accounts.credentials import Clock
from homeserver.accounts.identity import PasswordCheck, user_named_in
from homeserver.errors import BadJson, Forbidden, MissingParam
from homeserver.needs import Protocol
from storage.registration_tokens import RegistrationTokenStore
from storage.uia_sessions import UiaSessionStore

DUMMY: Final = "m.login.dummy"
PASSWORD: Final = "m.login.password"  # noqa: S105
REGISTRATION_TOKEN: Final = "m.login.registration_token"  # noqa: S105
TERMS: Final = "m.login.terms"

MAX_REGISTRATION_TOKEN: Final = 64
_ANOTHER: Final = "That is not the account the request is for"


class Attempt(Struct, frozen=True):
    """A client's attempt at a stage."""

    session_id: str | None
    """None only for stages that need no session."""
    user_id: str | None
    answer: Mapping[str, Any]
    """The `auth` object, or the fields of a fallback page."""


class Stage(Protocol):
    """One stage."""

    @property
    def needs_session(self) -> bool:
        """Whether completing it keeps something in the session beyond the fact."""

    async def complete(self, attempt: Attempt) -> None:
        """Judge the answer, and note the stage in the attempt's session.

        Raises the MatrixError the client is told, after which it may try again.
        """


class Affirmation:
    """`m.login.dummy` and `m.login.terms`: to send it is to pass it."""

    needs_session = False

    def __init__(self, stage: str, sessions: UiaSessionStore, clock: Clock) -> None:
        self._stage = stage
        self._sessions = sessions
        self._clock = clock

    async def complete(self, attempt: Attempt) -> None:
        """Pass."""
        if attempt.session_id is not None:
            await self._sessions.complete(attempt.session_id, self._stage, self._clock())


class PasswordStage:
    """`m.login.password`: the password of the very user the operation is for."""

    needs_session = False

    def __init__(
        self, server_name: str, passwords: PasswordCheck, sessions: UiaSessionStore, clock: Clock
    ) -> None:
        self._server_name = server_name
        self._passwords = passwords
        self._sessions = sessions
        self._clock = clock

    async def complete(self, attempt: Attempt) -> None:
        """Raises Forbidden for another user or a wrong password, MissingParam, BadJson, LimitExceeded."""
        password = attempt.answer.get("password")
        if password is None:
            raise MissingParam("password is missing")
        if not isinstance(password, str):
            raise BadJson("password must be a string")
        named = user_named_in(attempt.answer, self._server_name)
        # Before the password is looked at: whether it is somebody else's is not to be tried out here.
        if named is None or attempt.user_id is None or named.lower() != attempt.user_id.lower():
            raise Forbidden(_ANOTHER)
        user = await self._passwords.check(named, password)
        if user.user_id != attempt.user_id:
            raise Forbidden(_ANOTHER)
        if attempt.session_id is not None:
            await self._sessions.complete(attempt.session_id, PASSWORD, self._clock())


class RegistrationTokenStage:
    """`m.login.registration_token`: holds one use of a token until the session ends."""

    needs_session = True

    def __init__(self, tokens: RegistrationTokenStore, *, closed: bool, clock: Clock) -> None:
        """`closed`: registration is off, so that only the token for the first account counts."""
        self._tokens = tokens
        self._closed = closed
        self._clock = clock

    async def complete(self, attempt: Attempt) -> None:
        """Raises Forbidden for a token that is unknown, expired or used up, MissingParam, BadJson."""
        token = attempt.answer.get("token")
        if token is None:
            raise MissingParam("token is missing")
        if not isinstance(token, str):
            raise BadJson("token must be a string")
        assert attempt.session_id is not None
        usable = len(token) <= MAX_REGISTRATION_TOKEN
        if not usable or not await self._tokens.reserve(
            token, attempt.session_id, self._clock(), closed=self._closed
        ):
            raise Forbidden("The registration token is not valid")
