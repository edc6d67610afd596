# SPDX-License-Identifier: Apache-2.0
"""Password hashing, and which passwords are too weak to accept.

Owns Argon2id and the threads it runs in: a hash takes tens of milliseconds by intent, so it never runs on the reactor
thread, and no more than two run at once, so that a flood of log-ins neither takes all cores nor all memory (each
needs `argon2_memory` while it runs). Plain passwords pass through and are kept nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from homeserver.errors import LimitExceeded, WeakPassword

if TYPE_CHECKING:
    from argon2 import PasswordHasher as Argon2

T = TypeVar("T")

MIN_LENGTH: Final = 8
MAX_BYTES: Final = 512
_THREADS: Final = 2
_MOST_WAITING: Final = 200
_RETRY_AFTER_MS: Final = 2000


class PasswordHasher:
    """Hashes and verifies passwords in threads of its own; `close` ends them."""

    def __init__(self, reactor: IReactorFromThreads, *, time_cost: int, memory: int) -> None:
        """`time_cost`: passes of Argon2id over its memory, which is of `memory` bytes."""
        self._reactor = reactor
        self._time_cost = time_cost
        self._memory_kib = memory // 1024
        self._pool = ThreadPool(minthreads=0, maxthreads=_THREADS, name="passwords")
        self._pool.start()
        self._under_way = 0
        # What the password of nobody is checked against, so that the answer for an unknown user takes as long as
        # that for a wrong password.
        self._nobody: str | None = None

    @cached_property
    def _argon2(self) -> Argon2:
        from argon2 import PasswordHasher as Argon2  # when the first password comes

        return Argon2(time_cost=self._time_cost, memory_cost=self._memory_kib, parallelism=1)

    async def hash(self, password: str) -> str:
        """A salted hash of the password, with its parameters, as text.

        Raises LimitExceeded if too many are waiting already.
        """
        return await self._in_thread(lambda: self._argon2.hash(_encoded(password)))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password is the one that was hashed; takes as long if there is none (`stored` is None).

        Raises LimitExceeded if too many are waiting already.
        """
        return await self._in_thread(lambda: self._verify(stored, password))

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than today's."""
        return self._argon2.check_needs_rehash(stored)

    def close(self) -> None:
        """End the threads, waiting for the hashes under way."""
        self._pool.stop()

    def _verify(self, stored: str | None, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        against = stored
        if against is None:
            if self._nobody is None:
                self._nobody = self._argon2.hash("nobody")
            against = self._nobody
        try:
            self._argon2.verify(against, _encoded(password))
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._under_way >= _MOST_WAITING:
            raise LimitExceeded(_RETRY_AFTER_MS)
        self._under_way += 1
        try:
            return cast(T, await cast(Any, deferToThreadPool(self._reactor, self._pool, work)))
        finally:
            self._under_way -= 1


def check_password(password: str, localpart: str | None) -> None:
    """Raise WeakPassword unless the password may protect an account named `localpart`.

    A floor, not a judgement of quality: at least eight characters, not all the same, and not the user's own name.
    """
    if len(password) < MIN_LENGTH:
        raise WeakPassword(f"A password needs at least {MIN_LENGTH} characters")
    if len(_encoded(password)) > MAX_BYTES:
        raise WeakPassword(f"A password may have at most {MAX_BYTES} bytes")
    if len(set(password)) == 1:
        raise WeakPassword("A password of one character repeated is too weak")
    if localpart is not None and password.lower() in {localpart, localpart[::-1]}:
        raise WeakPassword("The password must not be the user name")


def _encoded(password: str) -> bytes:
    """A password's bytes; a lone surrogate, which JSON can smuggle in, must not be an error of ours."""
    return password.encode("utf-8", "surrogatepass")
