# SPDX-License-Identifier: Apache-2.0
"""Servers that answer drop by drop, or hang up on whatever they are sent."""

from __future__ import annotations

from tests.federation.hostile.battlefield import OurRoom
from tests.federation.hostile.conftest import Raise, Waiting
from tests.federation.hostile.hostile_server import HostileServer
from tests.interop.federation.people import PATIENCE, Person


def test_a_join_drop_by_drop(alice: Person, hostile: HostileServer, waiting: Waiting) -> None:
    """It ends with an error in time. All other tests of this package ran meanwhile: nobody else waits for it."""
    OurRoom(alice, hostile).goes_on()
    waiting.thread.join(PATIENCE)
    assert waiting.statuses == [502]


def test_a_server_that_takes_no_transactions(alice: Person, rising: Raise) -> None:
    """Its rooms go on for everybody else, and what it says is still heard."""
    deaf, hostile = rising("localhost"), rising("localhost")
    deaf.refuses_transactions = True
    theirs = OurRoom(alice, deaf)
    visiting = OurRoom(alice, hostile, visited=theirs.id)
    for _ in range(3):
        visiting.goes_on()
    said = theirs.event("m.room.message", {"body": "from the deaf"}, sender=deaf.bob)
    assert deaf.send(said) == {said.event.event_id: {}}
    alice.hears(theirs.id, "from the deaf")
