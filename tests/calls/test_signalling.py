# SPDX-License-Identifier: Apache-2.0
"""What the server owes a call whatever its clients do: every device hears every event, in one order, with its age.

Owns the order of candidates, glare, declining, answering elsewhere and invites whose time is over, by signalling alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.calls.conftest import Town
from tests.calls.lines import WebSocketLine, lines
from tests.calls.ringing import House, answered_elsewhere, declined, glare


def house_of(town: Town) -> House:
    """With one of each kind of line for both."""
    alice, bob = town.person("alice"), town.person("bob")
    return House(
        town.chat(alice, bob),
        [town.line(alice), town.another_line(alice, WebSocketLine)],
        [town.line(bob, WebSocketLine), town.another_line(bob)],
    )


def test_candidates_come_after_their_invite_and_in_their_order(town: Town) -> None:
    """A burst of them, each sent as soon as the one before was taken; no limit is in their way."""

    async def scenario() -> None:
        house = house_of(town)
        async with lines(*house.devices):
            caller = house.alice[1]
            await house.invite(caller, "call", "A")
            for number in range(30):
                candidate = {"candidate": f"candidate:{number}", "sdpMid": "0", "sdpMLineIndex": 0}
                await house.send(caller, "candidates", "call", "A", candidates=[candidate])
            await house.send(caller, "hangup", "call", "A")
            heard = await asyncio.gather(*(house.heard(line, "hangup") for line in house.devices))
        for events in heard:
            assert [event["type"] for event in events[:1]] == ["m.call.invite"]
            order = [event["content"]["candidates"][0]["candidate"] for event in events[1:-1]]
            assert order == [f"candidate:{number}" for number in range(30)]

    asyncio.run(scenario())


@pytest.mark.parametrize("scenario", [glare, declined, answered_elsewhere])
def test_calls_that_ring_on_several_devices(
    town: Town, scenario: Callable[[House], Coroutine[Any, Any, None]]
) -> None:
    """Each is understood alike by all of them."""
    asyncio.run(scenario(house_of(town)))


def test_an_invite_whose_time_is_over(town: Town) -> None:
    """Who connects late sees by its age that it rings no more, and the hang-up of the caller who gave up."""

    async def scenario() -> None:
        house = house_of(town)
        late = house.bob[1]
        await late.mark()
        async with lines(*house.alice, house.bob[0]):
            await house.invite(house.alice[0], "call", "A", lifetime=200)
            invite = (await house.heard(house.bob[0], "invite"))[-1]
            assert invite["unsigned"]["age"] >= 0
            await asyncio.sleep(0.2)  # the life of the invite itself, in which nobody answers
            await house.send(house.alice[0], "hangup", "call", "A", reason="invite_timeout")
        async with lines(late):
            events = await house.heard(late, "hangup")
        assert [event["type"] for event in events] == ["m.call.invite", "m.call.hangup"]
        assert events[0]["unsigned"]["age"] >= 200 == events[0]["content"]["lifetime"]
        assert events[1]["content"]["reason"] == "invite_timeout"

    asyncio.run(scenario())
