# SPDX-License-Identifier: Apache-2.0
"""What serves calls, put together. Without configuration there is nothing of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from homeserver.app.core import Core, now_ms
from homeserver.calls.history.history import CallHistory
from homeserver.calls.rtc.callers import Callers, OwnTokens, RemoteTokens
from homeserver.calls.turn import TurnCredentials, turn_credentials
from homeserver.config import Config
from homeserver.outgoing import OutgoingClient
from storage.call_events import CallEventStore

if TYPE_CHECKING:  # loaded where a LiveKit is configured
    from homeserver.calls.rtc.leaves import DelayedEvents
    from homeserver.calls.rtc.services import GroupCalls


class Calls(Struct, frozen=True, kw_only=True):
    """What is None is not configured."""

    turn: TurnCredentials | None
    group: GroupCalls | None
    history: CallHistory
    """Always there: signalling is nothing but events."""

    def start(self) -> None:
        """Begin what runs by itself."""
        if self.group is not None:
            self.group.start()

    async def stop(self) -> None:
        """End it."""
        if self.group is not None:
            await self.group.stop()


def build_calls(
    reactor: Any,
    config: Config,
    core: Core,
    *,
    http: OutgoingClient,
    own_tokens: OwnTokens,
    remote_tokens: RemoteTokens,
    delayed: DelayedEvents,
    ignored: Callable[[str], Awaitable[Collection[str]]],
) -> Calls:
    """As configured. Raises StartRefused if a file of secrets cannot be read. `ignored` tells whom a user ignores."""
    return Calls(
        history=CallHistory(
            store=CallEventStore(core.database),
            user_rooms=core.user_rooms,
            gate=core.gate,
            ignored=ignored,
            position=lambda: core.stream.position,
            now=now_ms,
        ),
        turn=turn_credentials(config.turn),
        group=None
        if config.rtc.livekit_url is None
        else _group_calls(
            reactor, config, core, http=http, own=own_tokens, remote=remote_tokens, delayed=delayed
        ),
    )


def _group_calls(
    reactor: Any,
    config: Config,
    core: Core,
    *,
    http: OutgoingClient,
    own: OwnTokens,
    remote: RemoteTokens,
    delayed: DelayedEvents,
) -> GroupCalls | None:
    from homeserver.calls.rtc.services import build_group_calls
    from storage.delegated_leaves import DelegatedLeaveStore
    from storage.livekit_tickets import LiveKitTicketStore

    return build_group_calls(
        config.rtc,
        scheduler=reactor,
        server_name=config.server_name,
        callers=Callers(
            server_name=config.server_name,
            full_access=frozenset(config.rtc.full_access_servers),
            own=own,
            remote=remote,
            rooms=core.cache,
        ),
        http=http,
        delayed=delayed,
        store=DelegatedLeaveStore(core.database),
        tickets=LiveKitTicketStore(core.database),
    )
