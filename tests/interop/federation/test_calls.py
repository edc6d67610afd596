# SPDX-License-Identifier: Apache-2.0
"""Somebody here and somebody at a real Synapse call each other, from either side: sound and pictures both ways."""

from __future__ import annotations

import asyncio

import pytest

from tests.calls.conversations import call_each_other
from tests.calls.lines import LongPollLine
from tests.interop.federation.conftest import Federation
from tests.interop.federation.people import Person


def line(person: Person) -> LongPollLine:
    return LongPollLine(person.server.client_port, person.user_id, person.token)


@pytest.mark.parametrize(("near", "far"), [("lares", "synapse"), ("synapse", "lares")])
def test_a_call_between_servers(federation: Federation, near: str, far: str) -> None:
    """The whole of the protocol, over two servers and the federation between them."""
    caller, callee = federation.person(near, "caller"), federation.person(far, "callee")
    room_id = caller.create_room(
        preset="trusted_private_chat", is_direct=True, invite=[callee.user_id], room_version="11"
    )
    callee.is_invited(room_id)
    callee.join(room_id, caller.server.server_name)
    caller.sees_membership(room_id, callee, "join")
    callee.is_in(room_id)
    asyncio.run(call_each_other(line(caller), line(callee), room_id))
