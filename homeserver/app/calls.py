# SPDX-License-Identifier: Apache-2.0
"""What serves calls, put together. Without configuration there is nothing of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from homeserver.app.core import Core, now_ms
from homeserver.calls.history.history import CallHistory
from homeserver.calls.rtc.admission import Admission
from homeserver.calls.rtc.callers import Callers, OwnTokens, RemoteTokens
from homeserver.calls.rtc.sfu import LiveKitRooms
from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.calls.turn import TurnCredentials, turn_credentials
from homeserver.config import Config, StartRefused
from homeserver.config.private_file import given_or_read
from homeserver.config.values import signing_secret
from homeserver.outgoing import OutgoingClient
from storage.call_events import CallEventStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What is None is not configured."""

    turn: TurnCredentials | None
    admission: Admission | None
    history: CallHistory
    """Always there: signalling is nothing but events."""


def build_calls(
    config: Config,
    core: Core,
    *,
    http: OutgoingClient,
    own_tokens: OwnTokens,
    remote_tokens: RemoteTokens,
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
        admission=_admission(config, core, http, own_tokens, remote_tokens),
    )


def _admission(
    config: Config, core: Core, http: OutgoingClient, own_tokens: OwnTokens, remote_tokens: RemoteTokens
) -> Admission | None:
    rtc = config.rtc
    secret = given_or_read(rtc.api_secret, rtc.api_secret_file)
    if rtc.livekit_url is None or rtc.api_key is None or secret is None:
        return None
    problem = signing_secret(secret)
    if problem is not None:
        raise StartRefused(f"the secret in {rtc.api_secret_file} (rtc.api_secret_file) {problem}")
    tokens = LiveKitTokens(api_key=rtc.api_key, api_secret=secret, clock=time.time)
    return Admission(
        url=rtc.livekit_url,
        callers=Callers(
            server_name=config.server_name,
            full_access=frozenset(rtc.full_access_servers),
            own=own_tokens,
            remote=remote_tokens,
            rooms=core.cache,
        ),
        rooms=LiveKitRooms(http=http, url=rtc.api_url, tokens=tokens),
        tokens=tokens,
    )
