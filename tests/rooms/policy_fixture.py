# SPDX-License-Identifier: Apache-2.0
"""A policy server in memory, with a real key, and the events by which a room uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.errors import RefusedElsewhere
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import essential_bytes
from homeserver.protocol.policy_servers import PolicyServer
from homeserver.protocol.signing import POLICY_KEY_ID, SigningKey
from homeserver.rooms.engine import Draft
from homeserver.rooms.engine.recommending import Refusal

VIA = "policy.example"
BOT = f"@bot:{VIA}"
KEY = SigningKey.from_seed(POLICY_KEY_ID, b"a policy server's key in a room.")
CONTENT: Mapping[str, Any] = {"via": VIA, "public_keys": {"ed25519": KEY.verify_key.to_base64()}}


class PolicyServersInMemory:
    """Signs what does not say "spam"."""

    def __init__(self) -> None:
        self.asked: list[Event] = []
        self.asked_together: list[int] = []
        """How many events of others, by question."""
        self.meanwhile: Callable[[Event], Deferred[None] | None] = lambda _event: None
        """What happens while it thinks about an event of ours."""

    async def sign(self, policy_server: PolicyServer, event: Event) -> str:
        assert policy_server.via == VIA
        self.asked.append(event)
        waiting = self.meanwhile(event)
        if waiting is not None:
            await waiting
        if "spam" in str(event.content):
            raise RefusedElsewhere(400, "ORG.EXAMPLE.SPAM", "No spam please")
        return signature(event)

    async def sign_received(
        self, policy_server: PolicyServer, events: Sequence[Event]
    ) -> Mapping[str, str | Refusal]:
        assert policy_server.via == VIA
        self.asked.extend(events)
        self.asked_together.append(len(events))
        return {
            each.event_id: Refusal("spam") if "spam" in str(each.content) else signature(each)
            for each in events
        }

    @property
    def bodies(self) -> list[str]:
        """The texts it was asked about."""
        return [event.content["body"] for event in self.asked if "body" in event.content]


def signature(event: Event, key: SigningKey = KEY) -> str:
    """By the policy server's key."""
    return key.sign(essential_bytes(event.pdu, event.room_version))


def policy(sender: str, content: Mapping[str, Any] = CONTENT) -> Draft:
    """By which a room chooses its policy server."""
    return Draft("m.room.policy", sender, content, "")
