# SPDX-License-Identifier: Apache-2.0
"""Policy servers (server-server API, "Policy Servers"): whether a room uses one, and what it has signed.

Owns the reading of `m.room.policy`, which events need the policy server's signature, checking that signature and
putting it on an event. Does not own asking for it, nor what becomes of an event that lacks it.

A policy server's key stands in the room's state and nowhere else: it proves no event's origin, and what servers publish
as their keys proves no recommendation.
"""

from collections.abc import Container, Mapping
from typing import Any, Final, Self

from msgspec import Struct

from homeserver.protocol.errors import CanonicalJsonError
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import essential_bytes
from homeserver.protocol.signing import POLICY_KEY_ID, VerifyKey

POLICY: Final = ("m.room.policy", "")


class PolicyServer(Struct, frozen=True):
    """What a room's `m.room.policy` event names."""

    via: str
    """The server's name, as the room spells it."""
    key: VerifyKey | None
    """None for a text that is no key: the room uses the policy server, and nothing can be signed for it."""

    @classmethod
    def from_content(cls, content: Mapping[str, object]) -> Self | None:
        """Read the event's content; None where it is not valid, by which the room uses no policy server."""
        via, keys = content.get("via"), content.get("public_keys")
        text = keys.get("ed25519") if isinstance(keys, Mapping) else None
        if not isinstance(via, str) or not isinstance(text, str):
            return None
        try:
            return cls(via, VerifyKey.from_base64(text))
        except ValueError:
            return cls(via, None)

    def is_enabled(self, joined_servers: Container[str]) -> bool:
        """Whether the room uses it, given the servers with a joined user: it must have one to have a say in that."""
        return self.via in joined_servers

    def verifies(self, event: Event, signature: object) -> bool:
        """Whether it is this policy server's signature of the event."""
        if self.key is None or type(signature) is not str:
            return False
        try:
            return self.key.verifies(essential_bytes(event.pdu, event.room_version), signature)
        except CanonicalJsonError:
            return False

    def signature_on(self, event: Event) -> object:
        """What the event bears as its signature, whatever that is worth; None for nothing."""
        return event.pdu["signatures"].get(self.via, {}).get(POLICY_KEY_ID)

    def recommends(self, event: Event) -> bool:
        """Whether the event bears its valid signature."""
        return self.verifies(event, self.signature_on(event))


def needs_recommendation(event_type: str, state_key: str | None) -> bool:
    """Whether a policy server has a say in such an event: in all but the one by which a room dismisses it."""
    return (event_type, state_key) != POLICY


def with_recommendation(event: Event, via: str, signature: str) -> Event:
    """The event with a policy server's signature beside those that it has. Its id stays, as every signature's does."""
    signatures: dict[str, Any] = event.pdu["signatures"]
    theirs = {**signatures.get(via, {}), POLICY_KEY_ID: signature}
    pdu = {**event.pdu, "signatures": {**signatures, via: theirs}}
    return Event.from_pdu(pdu, event.room_version, event.event_id)
