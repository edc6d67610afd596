# SPDX-License-Identifier: Apache-2.0
"""What group calls need, put together where a LiveKit is configured."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct

from homeserver.calls.rtc.admission import Admission
from homeserver.calls.rtc.callers import Callers
from homeserver.calls.rtc.leaves import DelayedEvents, DelegatedLeaves
from homeserver.calls.rtc.removal import Removal
from homeserver.calls.rtc.sfu import LiveKitRooms
from homeserver.calls.rtc.tokens import LiveKitTokens
from homeserver.config.call_sections import Rtc
from homeserver.config.errors import StartRefused
from homeserver.config.private_file import given_or_read
from homeserver.config.values import signing_secret
from homeserver.outgoing import OutgoingClient
from storage.delegated_leaves import DelegatedLeaveStore
from storage.livekit_tickets import LiveKitTicketStore


class GroupCalls(Struct, frozen=True, kw_only=True):
    """What endpoints call, and what runs by itself."""

    admission: Admission
    leaves: DelegatedLeaves
    tokens: LiveKitTokens
    removal: Removal

    def start(self) -> None:
        """Begin what runs by itself."""
        self.leaves.start()
        self.removal.start()

    async def stop(self) -> None:
        """End it."""
        await self.leaves.stop()
        await self.removal.stop()


def build_group_calls(
    rtc: Rtc,
    *,
    scheduler: Any,
    server_name: str,
    callers: Callers,
    http: OutgoingClient,
    delayed: DelayedEvents,
    store: DelegatedLeaveStore,
    tickets: LiveKitTicketStore,
) -> GroupCalls | None:
    """Build them; None where there is no LiveKit. Raises StartRefused for a file of secrets that cannot be used."""
    secret = given_or_read(rtc.api_secret, rtc.api_secret_file)
    if rtc.livekit_url is None or rtc.api_key is None or secret is None:
        return None
    problem = signing_secret(secret)
    if problem is not None:
        raise StartRefused(f"the secret in {rtc.api_secret_file} (rtc.api_secret_file) {problem}")
    tokens = LiveKitTokens(api_key=rtc.api_key, api_secret=secret, clock=time.time)
    rooms = LiveKitRooms(http=http, url=rtc.api_url, tokens=tokens)
    leaves = DelegatedLeaves(scheduler=scheduler, store=store, delayed=delayed, participants=rooms)
    return GroupCalls(
        admission=Admission(
            url=rtc.livekit_url, callers=callers, rooms=rooms, tokens=tokens, leaves=leaves, tickets=tickets
        ),
        leaves=leaves,
        tokens=tokens,
        removal=Removal(scheduler=scheduler, server_name=server_name, store=tickets, participants=rooms),
    )
