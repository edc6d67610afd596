# SPDX-License-Identifier: Apache-2.0
"""Asking a room's policy server about events that came without its signature. Owns which way its answers go back into
the events; when it is asked is `receiving`'s and `room_intake`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from homeserver.protocol.errors import EventTooLargeError
from homeserver.protocol.events import Event
from homeserver.protocol.policy_servers import PolicyServer
from homeserver.rooms.engine.recommending import PolicyServers, Refusal, signed_form
from homeserver.rooms.intake.incoming import Asked, Incoming
from homeserver.rooms.intake.receiving import Unasked


async def ask_policy_servers(
    policy_servers: PolicyServers, events: Sequence[Incoming], unasked: Sequence[Unasked]
) -> list[Incoming]:
    """The events, those of `unasked` with the signature that they lacked or with the reason why they have none; a part
    of them as they were, if there was no time for more.
    """
    by_server: dict[PolicyServer, list[Event]] = {}
    for each in unasked:
        by_server.setdefault(each.policy_server, []).append(each.event)
    answers: dict[str, tuple[PolicyServer, str | Refusal]] = {}
    for policy_server, lacking in by_server.items():  # nearly always one
        given: Mapping[str, str | Refusal] = await policy_servers.sign_received(policy_server, lacking)
        if not given:
            late = Refusal("the room's policy server did not answer in time")
            given = {event.event_id: late for event in lacking}
        answers.update((event_id, (policy_server, answer)) for event_id, answer in given.items())
    return [
        incoming
        if incoming.event.event_id not in answers
        else _with_answer(incoming, *answers[incoming.event.event_id])
        for incoming in events
    ]


def _with_answer(incoming: Incoming, policy_server: PolicyServer, answer: str | Refusal) -> Incoming:
    if isinstance(answer, Refusal):
        return replace(incoming, asked=Asked(policy_server, answer.reason))
    try:
        event, text = signed_form(incoming.event, policy_server, answer)
    except EventTooLargeError:
        return replace(
            incoming, asked=Asked(policy_server, "there is no room for the policy server's signature")
        )
    return replace(incoming, event=event, json=text, asked=Asked(policy_server))
