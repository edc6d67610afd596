# SPDX-License-Identifier: Apache-2.0
"""Having a room's policy server sign events before they are written (server-server API, "Policy Servers").

Owns what the rooms want of policy servers, and putting their signatures on events of ours that are drafted; asking them
is `federation`'s. Rooms without a policy server have nothing to do with this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults

from homeserver.errors import Forbidden
from homeserver.needs import Protocol
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.event_format import check_pdu_size
from homeserver.protocol.events import Event
from homeserver.protocol.policy_servers import PolicyServer, with_recommendation
from homeserver.rooms.engine.working import Guarded, WorkingRoom


class PolicyServers(Protocol):
    """Asks policy servers for signatures. Every signature it gives holds by the room's key."""

    async def sign(self, policy_server: PolicyServer, event: Event) -> str:
        """The signature of an event of ours. Answers within seconds, come what may.

        Raises the MatrixError that the client is told: what the policy server answered, as it answered it, or
        RemoteServerFailed where nobody can say what it would.
        """
        ...

    async def sign_received(
        self, policy_server: PolicyServer, events: Sequence[Event]
    ) -> Mapping[str, str | Refusal]:
        """The same for events of other servers that came without, by id. Those that there was no time for are absent.
        Never raises.
        """
        ...


class Refusal(Struct, frozen=True):
    """Why an event is not recommended."""

    reason: str


class NoPolicyServers:
    """For a server that does not federate."""

    async def sign(self, policy_server: PolicyServer, event: Event) -> str:
        """Nobody can be asked, and nothing may be sent without."""
        raise Forbidden(f"The room's policy server {policy_server.via[:255]} cannot be asked from here")

    async def sign_received(
        self, policy_server: PolicyServer, events: Sequence[Event]
    ) -> Mapping[str, str | Refusal]:
        """Nobody can be asked."""
        return {event.event_id: Refusal("the room's policy server cannot be asked") for event in events}


async def sign_guarded(
    policy_servers: PolicyServers, working: WorkingRoom, guarded: Sequence[Guarded]
) -> dict[int, Exception]:
    """Have drafted events signed, all at once. Gives, by place in `working.appended`, why one must not be written.

    The others bear the signature in what will be committed.
    """
    answers: list[str | Exception] = await gatherResults(
        [Deferred.fromCoroutine(_signature(policy_servers, each)) for each in guarded]
    )
    places = {id(entry): place for place, entry in enumerate(working.appended)}
    failures: dict[int, Exception] = {}
    for each, answer in zip(guarded, answers, strict=True):
        failure = answer if isinstance(answer, Exception) else _put_on(working, each, answer)
        if failure is not None:
            failures[places[id(each.entry)]] = failure
    return failures


async def _signature(policy_servers: PolicyServers, guarded: Guarded) -> str | Exception:
    try:
        return await policy_servers.sign(guarded.policy_server, guarded.entry.event)
    except Exception as error:
        return error


def _put_on(working: WorkingRoom, guarded: Guarded, signature: str) -> Exception | None:
    """None, or why the event cannot bear it: it may be too large with it."""
    entry = guarded.entry
    try:
        event, text = signed_form(entry.event, guarded.policy_server, signature)
    except Exception as error:
        return error
    working.moving.sign(entry, event, text)
    return None


def signed_form(event: Event, policy_server: PolicyServer, signature: str) -> tuple[Event, str]:
    """The event with the signature, and its PDU as canonical JSON. Raises EventTooLargeError."""
    event = with_recommendation(event, policy_server.via, signature)
    encoded = encode_canonical(event.pdu, strict=event.room_version.strict_canonical_json)
    check_pdu_size(encoded)
    return event, encoded.decode()
