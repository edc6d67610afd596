# SPDX-License-Identifier: Apache-2.0
"""Two people call each other through one server: sound and pictures arrive, whatever the line and the version."""

from __future__ import annotations

import asyncio

import pytest

from tests.calls.conftest import Town
from tests.calls.conversations import call_each_other
from tests.calls.lines import LongPollLine, WebSocketLine


@pytest.mark.parametrize(
    ("kind", "versions"),
    [(LongPollLine, ("1", "1")), (WebSocketLine, ("1", "1")), (LongPollLine, (0, 0))],
    ids=["long-poll", "websocket", "version 0"],
)
def test_two_people_call_each_other(
    town: Town, kind: type[LongPollLine], versions: tuple[object, object]
) -> None:
    """Invite, candidates, answer, select_answer, negotiate, hangup."""
    alice, bob = town.person("alice"), town.person("bob")
    room_id = town.chat(alice, bob)
    asyncio.run(call_each_other(town.line(alice, kind), town.line(bob, kind), room_id, versions=versions))
