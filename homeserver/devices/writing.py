# SPDX-License-Identifier: Apache-2.0
"""What the services of devices need of the stream's committer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred


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
