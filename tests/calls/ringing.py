# SPDX-License-Identifier: Apache-2.0
"""Calls that ring on several devices at once, by signalling alone: both call, one declines, another answers.

Owns what the devices say and must hear, whichever servers they are at. Events of several senders may come in another
order at another server; those of one sender may not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from tests.calls.lines import Event, LongPollLine, lines

SDP = "v=0\r\n" * 200
"""About as long as real ones are."""


class House:
    """Alice and Bob, each with two devices, in one room, and at one server or at two."""

    def __init__(
        self,
        room_id: str,
        alice: Sequence[LongPollLine],
        bob: Sequence[LongPollLine],
        *,
        one_server: bool = True,
    ) -> None:
        self.room_id = room_id
        self.one_server = one_server
        self.alice = list(alice)
        self.bob = list(bob)
        self.devices = [*alice, *bob]

    async def send(self, line: LongPollLine, kind: str, call_id: str, party: str, **more: Any) -> None:
        content = {"call_id": call_id, "party_id": party, "version": "1", **more}
        await line.send(self.room_id, f"m.call.{kind}", content)

    async def invite(self, line: LongPollLine, call_id: str, party: str, *, lifetime: int = 60_000) -> None:
        offer = {"type": "offer", "sdp": SDP}
        await self.send(line, "invite", call_id, party, lifetime=lifetime, offer=offer)

    async def heard(self, line: LongPollLine, until: str) -> list[Event]:
        """A device's events of calls in the room, up to one of that kind."""
        found: list[Event] = []
        while True:
            room_id, event = await line.heard()
            if room_id == self.room_id and event["type"].startswith("m.call."):
                found.append(event)
                if event["type"] == f"m.call.{until}":
                    return found


async def glare(house: House) -> None:
    """Both call at once: all devices see the same two calls, so both sides keep the lesser and drop the greater."""
    async with lines(*house.devices):
        await asyncio.gather(
            house.invite(house.alice[0], "bbbb", "A"), house.invite(house.bob[0], "aaaa", "B")
        )
        seen = []
        for line in (house.alice[0], house.bob[0]):
            events = [*await house.heard(line, "invite"), *await house.heard(line, "invite")]
            seen.append([event["content"]["call_id"] for event in events])
            assert sorted(seen[-1]) == ["aaaa", "bbbb"]
        assert seen[0] == seen[1] or not house.one_server
        # Alice's call is the greater: she drops it and takes Bob's.
        await house.send(house.alice[0], "hangup", "bbbb", "A", reason="user_hangup")
        answer = {"type": "answer", "sdp": SDP}
        await house.send(house.alice[0], "answer", "aaaa", "A", answer=answer)
        for line in (house.alice[0], house.bob[0]):
            events = await house.heard(line, "answer")
            assert [event["content"]["call_id"] for event in events] == ["bbbb", "aaaa"]


async def declined(house: House) -> None:
    """On one device: the other stops ringing, and the caller is told."""
    async with lines(*house.devices):
        await house.invite(house.alice[0], "call", "A")
        await house.heard(house.bob[1], "invite")
        await house.send(house.bob[1], "reject", "call", "B2")
        others = [line for line in house.devices if line is not house.bob[1]]
        heard = await asyncio.gather(*(house.heard(line, "reject") for line in others))
        assert all(events[-1]["content"]["party_id"] == "B2" for events in heard)


async def answered_elsewhere(house: House) -> None:
    """Both of Bob's devices answer; whom the caller selects is told to both, after the answers."""
    async with lines(*house.devices):
        await house.invite(house.alice[0], "call", "A")
        await asyncio.gather(*(house.heard(line, "invite") for line in house.bob))
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
            assert kinds == ["answer", "answer", "select_answer"]
            assert events[-1]["content"]["selected_party_id"] == chosen == events[0]["content"]["party_id"]
