# SPDX-License-Identifier: Apache-2.0
"""A server that was stopped for a while: its people miss nothing of what the others did meanwhile."""

from __future__ import annotations

import pytest

from tests.interop.federation.conftest import Federation
from tests.interop.federation.people import Person

PAIRS = (("lares", "synapse"), ("synapse", "lares"), ("lares", "other lares"))
SAID = [f"meanwhile {n}" for n in range(60)]
"""More than one transaction holds, and than is fetched at once of what is missing."""


@pytest.mark.parametrize(("near", "far"), PAIRS, ids=[" and ".join(pair) for pair in PAIRS])
def test_caught_up(federation: Federation, near: str, far: str) -> None:
    """The servers are everybody's: what is stopped here is back before anybody else needs it."""
    host, other = federation.person(near, "host"), federation.person(near, "other")
    guest = federation.person(far, "guest")
    room_id = host.create_room(name="before")
    other.join(room_id)
    guest.join(room_id, host.server.server_name)
    guest.is_in(room_id)
    host.sees_membership(room_id, guest, "join")
    host.say(room_id, "until soon")
    guest.hears(room_id, "until soon")
    stopped = federation.server(far)
    stopped.stop()
    try:
        _go_on(host, other, room_id)
    finally:
        stopped.start()
    # Who is heard of is tried again at once, however long the pause between attempts has become.
    guest.learns("GET", f"v3/profile/{host.user_id}")
    _miss_nothing(guest, other, room_id)
    guest.say(room_id, "back again")
    host.hears(room_id, "back again")
    guest.until(lambda me: me.state(room_id) == host.state(room_id), "agreeing on the state")


def _go_on(host: Person, other: Person, room_id: str) -> None:
    for n, body in enumerate(SAID):
        host.say(room_id, body)
        if n == 20:
            host.set_state(room_id, "m.room.name", {"name": "after"})
        if n == 40:
            host.membership(room_id, "kick", other)


def _miss_nothing(guest: Person, other: Person, room_id: str) -> None:
    guest.hears(room_id, SAID[-1])
    guest.sees_membership(room_id, other, "leave")
    assert guest.joined[room_id].state["m.room.name", ""]["content"]["name"] == "after"
    said = [event["content"]["body"] for event in guest.history(room_id) if "body" in event["content"]]
    assert said == ["until soon", *SAID][::-1]
