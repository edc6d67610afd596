# SPDX-License-Identifier: Apache-2.0
"""Checking the signatures of many events, off the reactor.

Owns where and in which portions the arithmetic happens. Verifying takes 54 µs, during which libsodium leaves the
interpreter to others; one or two events are not worth a thread. Which keys count is decided before.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.threads import deferToThread

from homeserver.protocol.errors import ProtocolError, SignatureError
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import essential_bytes
from homeserver.protocol.signing import VerifyKey

PORTION: Final = 50
"""Events per visit to a thread: some five milliseconds of work, after which others get their turn."""
INLINE: Final = 2
_AT_ONCE: Final = 2


class Claim(Struct, frozen=True):
    """A server's signature of an event, and the keys that may have made it: one of them must have."""

    server_name: str
    key_id: str
    signature: object
    keys: Sequence[VerifyKey]


class Task(Struct, frozen=True):
    """An event and every signature that must hold."""

    event: Event
    claims: Sequence[Claim]


class Verification:
    """Checks tasks; two portions at a time, so that a large join leaves threads and processors to others."""

    def __init__(self) -> None:
        self._turns = DeferredSemaphore(_AT_ONCE)

    async def check(self, tasks: Sequence[Task]) -> list[SignatureError | None]:
        """For each task, which signature does not hold; None if all do."""
        if len(tasks) <= INLINE:
            return check_all(tasks)
        outcomes: list[SignatureError | None] = [None] * len(tasks)
        starts = iter(range(0, len(tasks), PORTION))

        failures: list[BaseException] = []

        async def work() -> None:
            try:
                for start in starts:
                    portion = tasks[start : start + PORTION]
                    outcomes[start : start + PORTION] = await self._in_thread(portion)
            except BaseException as error:
                failures.append(error)

        # As many as get a turn at once, not all: whoever comes meanwhile waits for two portions, not for the list.
        await DeferredList([Deferred.fromCoroutine(work()) for _ in range(_AT_ONCE)])
        if failures:
            raise failures[0]
        return outcomes

    async def _in_thread(self, tasks: Sequence[Task]) -> list[SignatureError | None]:
        run: Callable[..., Any] = self._turns.run
        outcomes: list[SignatureError | None] = await run(deferToThread, check_all, tasks)
        return outcomes


def check_all(tasks: Sequence[Task]) -> list[SignatureError | None]:
    """Check here and now."""
    return [_check(task) for task in tasks]


def _check(task: Task) -> SignatureError | None:
    try:
        data = essential_bytes(task.event.pdu, task.event.room_version)
    except ProtocolError as error:
        return SignatureError(str(error))
    for claim in task.claims:
        signature = claim.signature
        if type(signature) is not str or not any(key.verifies(data, signature) for key in claim.keys):
            return SignatureError(f"the signature of {claim.server_name} by {claim.key_id} is wrong")
    return None
