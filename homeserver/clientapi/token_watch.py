# SPDX-License-Identifier: Apache-2.0
"""Whether who asked is still welcome, for requests that outlive the moment their token was looked at.

Owns ending a wait when the token's user logs out, is locked or closed, and asking again whose the token is before
anything is told. Does not own tokens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from homeserver.errors import UnknownToken, UserLocked
from homeserver.needs import Protocol
from homeserver.web.authentication import Authenticator, Requester, token_of
from homeserver.web.hearing import Hearing, NoOthers
from homeserver.web.request import MatrixRequest
from homeserver.web.signals import Signal

T = TypeVar("T")


class Users(Protocol):
    """Tells of users' tokens, rights and standing; `accounts.token_cache.TokenCache` is one."""

    @property
    def epoch(self) -> int:
        """Grows whenever any of that may have changed, whoever's it is."""
        ...

    def watch(self, user_id: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a callback called when that of a user may have changed; returns the way to stop."""
        ...


class TokenWatch:
    """One per process."""

    def __init__(self, authenticator: Authenticator, users: Users, hearing: Hearing | None = None) -> None:
        """`hearing`: what to wait for before a token is believed; nothing where there is no other process."""
        self._authenticator = authenticator
        self.users = users
        self._hearing = NoOthers() if hearing is None else hearing

    def watch(self, request: MatrixRequest, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called when the requester may no longer be welcome. Returns the way to stop."""
        return self.users.watch(request.requester.user_id, callback)

    async def authenticate(self, request: MatrixRequest) -> Requester:
        """Whose the request's token is by now. Raises UnknownToken, UserLocked."""
        token = token_of(request.headers("Authorization"), request.query.strings("access_token"))
        if token is None:
            raise UnknownToken
        if self._hearing.has_others and self._hearing.behind():
            await self._hearing.catch_up()
        requester = await self._authenticator.authenticate(token, request)
        if requester.is_locked:
            raise UserLocked
        return requester

    async def wait(self, request: MatrixRequest, wait: Callable[[Signal], Awaitable[T]]) -> T:
        """What `wait` waits for. Its signal says to come back with what there is: the server or the session ends.

        What ended the session before is not noticed here: whoever awaited something since the request was let in looks
        first whether `users.epoch` grew meanwhile, and authenticates again then.
        Raises UnknownToken and UserLocked where the session has ended meanwhile: nothing is told any more.
        """
        ending = _Ending()
        stop_server = request.shutting_down.subscribe(ending.fire)
        stop_watching = self.watch(request, ending.doubt)
        try:
            result = await wait(ending)
            if self._hearing.has_others and self._hearing.behind():
                await self._hearing.catch_up()
        finally:
            stop_server()
            stop_watching()
        if ending.doubtful:
            await self.authenticate(request)
        return result

    def is_behind(self) -> bool:
        """Whether others may have told of a token's end what has not been heard here yet."""
        return self._hearing.has_others and self._hearing.behind()


class WatchedToken:
    """The token of one request, for what outlives it."""

    def __init__(self, tokens: TokenWatch, request: MatrixRequest) -> None:
        self._tokens = tokens
        self._request = request
        self.is_behind = tokens.is_behind

    async def authenticate(self) -> Requester:
        """Whose it is by now. Raises UnknownToken, UserLocked."""
        return await self._tokens.authenticate(self._request)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called when its user may no longer be welcome. Returns the way to stop."""
        return self._tokens.watch(self._request, callback)


class _Ending(Signal):
    """The server ends, or perhaps the session."""

    __slots__ = ("doubtful",)

    def __init__(self) -> None:
        super().__init__()
        self.doubtful = False

    def doubt(self) -> None:
        """The token, or its user, may not be welcome any more."""
        self.doubtful = True
        self.fire()
