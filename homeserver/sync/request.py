# SPDX-License-Identifier: Apache-2.0
"""What a client asks of a sync, what it gets, and the stretch of the stream in between, as values."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from homeserver.protocol.filters import NO_FILTER, SyncFilter
from homeserver.protocol.tokens import SyncToken

StateAfter = Literal["state_after", "org.matrix.msc4222.state_after"]
"""The field that holds the state at the end of the timeline, by the name of the parameter that asked for it."""

Presence = Literal["online", "unavailable", "offline"]


class SyncRequest(Struct, frozen=True, kw_only=True):
    """The parameters of `/sync` that shape one response; waiting is `long_poll`'s."""

    user_id: str
    device_id: str | None
    since: SyncToken | None = None
    filter: SyncFilter = NO_FILTER
    full_state: bool = False
    state_after: StateAfter | None = None
    """None: the state at the start of the timeline, as `state`."""


class SyncResponse(Struct, frozen=True):
    """`body` is the whole JSON object."""

    body: bytes
    next_batch: SyncToken
    has_news: bool
    """Whether it says anything at all: a long-poll goes on waiting if not."""


class Window(Struct, frozen=True):
    """One response in the making: everything in since < position ≤ upto, and no more."""

    request: SyncRequest
    upto: int
    now: int
    """Wall clock in milliseconds, for `age`."""
    ignored: frozenset[str]
    """Users whose messages and invitations the user does not want."""

    @property
    def since(self) -> int:
        """0: from the beginning."""
        return 0 if self.request.since is None else self.request.since.position

    @property
    def initial(self) -> bool:
        return self.request.since is None
