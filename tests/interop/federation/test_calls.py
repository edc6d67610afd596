# SPDX-License-Identifier: Apache-2.0
"""Somebody here and somebody at another server, a real Synapse or ours, call each other: sound and pictures both ways,
and what rings on several devices.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.calls.conversations import call_each_other
from tests.calls.lines import LongPollLine
from tests.calls.ringing import House, answered_elsewhere, declined, glare
from tests.interop.federation.conftest import Federation
from tests.interop.federation.people import Person


def line(person: Person) -> LongPollLine:
    return LongPollLine(person.server.client_port, person.user_id, person.token)


@pytest.mark.parametrize(("near", "far"), [("lares", "synapse"), ("synapse", "lares")])
def test_a_call_between_servers(federation: Federation, near: str, far: str) -> None:
    """The whole of the protocol, over two servers and the federation between them."""
    caller, callee = federation.person(near, "caller"), federation.person(far, "callee")
    room_id = chat(caller, callee)
    asyncio.run(call_each_other(line(caller), line(callee), room_id))


@pytest.mark.parametrize("far", ["other lares", "synapse"])
def test_calls_that_ring_on_several_devices(federation: Federation, far: str) -> None:
    """Both call at once, one declines, another answers: understood alike on both servers."""
    alice, bob = federation.person("lares", "alice"), federation.person(far, "bob")
    for scenario in (glare, declined, answered_elsewhere):
        house = House(chat(alice, bob), [line(alice), line(alice)], [line(bob), line(bob)], one_server=False)
        asyncio.run(scenario(house))


def chat(caller: Person, callee: Person) -> str:
    """A chat of the two, which both servers know wholly: when one comes to, it tells its people of the room anew."""
    room_id = caller.create_room(
        preset="trusted_private_chat", is_direct=True, invite=[callee.user_id], room_version="11"
    )
    callee.is_invited(room_id)
    callee.join(room_id, caller.server.server_name)
    caller.sees_membership(room_id, callee, "join")
    callee.is_in(room_id)
    callee.until(lambda me: me.state(room_id) == caller.state(room_id), "the whole of the room")
    return room_id
