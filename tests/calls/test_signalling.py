# SPDX-License-Identifier: Apache-2.0
"""What the server owes a call whatever its clients do: every device hears every event, in one order, with its age.

Owns glare, declining, answering elsewhere and invites whose time is over, by signalling alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.calls.conftest import Town
from tests.calls.lines import Event, LongPollLine, WebSocketLine, lines

SDP = "v=0\r\n" * 200
"""About as long as real ones are."""


class House:
    """Alice and Bob, each with two devices, one of each kind of line, in one room."""

    def __init__(self, town: Town) -> None:
        alice, bob = town.person("alice"), town.person("bob")
        self.room_id = town.chat(alice, bob)
        self.alice = [town.line(alice), town.another_line(alice, WebSocketLine)]
        self.bob = [town.line(bob, WebSocketLine), town.another_line(bob)]
        self.devices = self.alice + self.bob

    async def send(self, line: LongPollLine, kind: str, call_id: str, party: str, **more: Any) -> None:
        content = {"call_id": call_id, "party_id": party, "version": "1", **more}
        await line.send(self.room_id, f"m.call.{kind}", content)

    async def invite(self, line: LongPollLine, call_id: str, party: str, *, lifetime: int = 60_000) -> None:
        offer = {"type": "offer", "sdp": SDP}
        await self.send(line, "invite", call_id, party, lifetime=lifetime, offer=offer)

    async def heard(self, line: LongPollLine, until: str) -> list[Event]:
        """A device's events of calls, up to one of that kind."""
        found: list[Event] = []
        while True:
            _, event = await line.heard()
            if event["type"].startswith("m.call."):
                found.append(event)
                if event["type"] == f"m.call.{until}":
                    return found


def test_candidates_come_after_their_invite_and_in_their_order(town: Town) -> None:
    """A burst of them, each sent as soon as the one before was taken; no limit is in their way."""

    async def scenario() -> None:
        house = House(town)
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


def test_glare(town: Town) -> None:
    """Both call at once: all devices see the same two calls, so both sides keep the lesser and drop the greater."""

    async def scenario() -> None:
        house = House(town)
        async with lines(*house.devices):
            await asyncio.gather(
                house.invite(house.alice[0], "bbbb", "A"), house.invite(house.bob[0], "aaaa", "B")
            )
            seen = []
            for line in (house.alice[0], house.bob[0]):
                events = [*await house.heard(line, "invite"), *await house.heard(line, "invite")]
                seen.append([event["content"]["call_id"] for event in events])
            assert seen[0] == seen[1] and min(seen[0]) == "aaaa"
            # Alice's call is the greater: she drops it and takes Bob's.
            await house.send(house.alice[0], "hangup", "bbbb", "A", reason="user_hangup")
            answer = {"type": "answer", "sdp": SDP}
            await house.send(house.alice[0], "answer", "aaaa", "A", answer=answer)
            for line in (house.alice[0], house.bob[0]):
                events = await house.heard(line, "answer")
                assert [event["content"]["call_id"] for event in events] == ["bbbb", "aaaa"]

    asyncio.run(scenario())


def test_declined_on_one_device_is_declined_on_all(town: Town) -> None:
    """The other device stops ringing, and the caller is told."""

    async def scenario() -> None:
        house = House(town)
        async with lines(*house.devices):
            await house.invite(house.alice[0], "call", "A")
            await house.heard(house.bob[1], "invite")
            await house.send(house.bob[1], "reject", "call", "B2")
            others = [line for line in house.devices if line is not house.bob[1]]
            heard = await asyncio.gather(*(house.heard(line, "reject") for line in others))
            assert all(events[-1]["content"]["party_id"] == "B2" for events in heard)

    asyncio.run(scenario())


def test_answered_elsewhere(town: Town) -> None:
    """Both of Bob's devices answer; whom the caller selects is told to both, after the answers."""

    async def scenario() -> None:
        house = House(town)
        async with lines(*house.devices):
            await house.invite(house.alice[0], "call", "A")
            answer = {"type": "answer", "sdp": SDP}
            await asyncio.gather(
                house.send(house.bob[0], "answer", "call", "B1", answer=answer),
                house.send(house.bob[1], "answer", "call", "B2", answer=answer),
            )
            first: Mapping[str, Any] = (await house.heard(house.alice[0], "answer"))[-1]["content"]
            chosen = first["party_id"]
            await house.send(house.alice[0], "select_answer", "call", "A", selected_party_id=chosen)
            for line in house.bob:
                events = await house.heard(line, "select_answer")
                kinds = [event["type"].removeprefix("m.call.") for event in events]
                assert kinds == ["invite", "answer", "answer", "select_answer"]
                assert (
                    events[-1]["content"]["selected_party_id"] == chosen == events[1]["content"]["party_id"]
                )

    asyncio.run(scenario())


def test_an_invite_whose_time_is_over(town: Town) -> None:
    """Who connects late sees by its age that it rings no more, and the hang-up of the caller who gave up."""

    async def scenario() -> None:
        house = House(town)
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
