# SPDX-License-Identifier: Apache-2.0
"""What the services of devices need of the stream's committer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from homeserver.needs import Protocol
from homeserver.stream import Apart

T = TypeVar("T")


class Committer(Protocol):
    """Gives rows their positions; `stream.Committer` is one."""

    def write(
        self,
        kind: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        users: Sequence[str] = (),
        landed: Callable[[int], Iterable[str]] | None = None,
    ) -> Deferred[int]: ...

    async def apart(self, commit: Callable[[], Awaitable[Apart[T]]]) -> T: ...
