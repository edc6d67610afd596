# SPDX-License-Identifier: Apache-2.0
"""A client's half of a call: `m.call.*` events over a line, sound and pictures between media peers.

Owns what the specification has a client do ("Voice over IP"), versions 0 and 1, candidates trickled. Whether anything
arrives is asked of the media peers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from tests.calls.lines import PATIENCE, Event, Line
from tests.calls.media_peer import MediaPeer

LIFETIME = 60_000


class Phone:
    """One device in one room."""

    def __init__(self, line: Line, room_id: str, peer: MediaPeer, *, version: object = "1") -> None:
        self.line = line
        self.room_id = room_id
        self.peer = peer
        self.version = version
        self.party_id = secrets.token_hex(4)
        self.call_id = ""
        self.other_party: str | None = None
        self.seen: list[Event] = []
        """Every event of the call from the other side, in the order it came."""
        self._messages: asyncio.Queue[Event] = asyncio.Queue()
        self._elsewhere: asyncio.Queue[Event] = asyncio.Queue()
        self._others: asyncio.Queue[Event] = asyncio.Queue()
        self._candidates: list[list[Mapping[str, Any]]] = []
        self._described = False
        self._task = asyncio.ensure_future(self._attend())

    async def send(self, kind: str, **content: Any) -> None:
        """An event of the call."""
        await self.line.send(self.room_id, f"m.call.{kind}", self.common() | content)

    def common(self) -> dict[str, Any]:
        """What every event of the call has."""
        common: dict[str, Any] = {"call_id": self.call_id, "version": self.version}
        if self.version != 0:
            common["party_id"] = self.party_id
        return common

    async def trickle(self, candidates: list[dict[str, Any]]) -> None:
        """Candidates, in two events."""
        half = (len(candidates) + 1) // 2
        for part in (candidates[:half], candidates[half:]):
            if part:
                await self.send("candidates", candidates=part)

    async def next(self, kind: str) -> Mapping[str, Any]:
        """The next event of the call from the other side, candidates aside, which must be of that kind: its content."""
        event = await asyncio.wait_for(self._others.get(), PATIENCE)
        assert event["type"] == f"m.call.{kind}", f"waited for {kind}, and {event} came"
        return dict(event["content"])

    async def next_message(self) -> Mapping[str, Any]:
        """The content of the next message in the room."""
        return dict((await asyncio.wait_for(self._messages.get(), PATIENCE))["content"])

    async def other_call(self, event_type: str) -> Mapping[str, Any]:
        """The content of the next event of another call, which must be of that type."""
        event = await asyncio.wait_for(self._elsewhere.get(), PATIENCE)
        assert event["type"] == event_type, event
        return dict(event["content"])

    async def _attend(self) -> None:
        """Take what comes for as long as the phone is in use."""
        while True:
            room_id, event = await self.line.heard()
            if room_id != self.room_id or self._is_own(event):
                continue
            if event["type"] == "m.room.message":
                self._messages.put_nowait(event)
                continue
            if not event["type"].startswith("m.call."):
                continue
            if self.call_id and event["content"].get("call_id") != self.call_id:
                self._elsewhere.put_nowait(event)
                continue
            self.seen.append(event)
            if event["type"] == "m.call.candidates":
                self._candidates.append(event["content"]["candidates"])
                await self._add_candidates()
            else:
                self._others.put_nowait(event)

    async def _add_candidates(self) -> None:
        """Those that came, once the peer knows what they are for."""
        while self._described and self._candidates:
            await self.peer.add(self._candidates.pop(0))

    async def _is_described(self) -> None:
        self._described = True
        await self._add_candidates()

    def _is_own(self, event: Event) -> bool:
        if event["sender"] != self.line.user_id:
            return False
        return self.version == 0 or event["content"].get("party_id") == self.party_id

    async def put_down(self) -> None:
        """Use it no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.peer.close()

    # A caller.

    async def ring(self, *, lifetime: int = LIFETIME) -> None:
        """Send the invite and, afterwards, the candidates."""
        self.call_id = secrets.token_hex(8)
        sdp, candidates = await self.peer.offer()
        await self.send("invite", lifetime=lifetime, offer={"type": "offer", "sdp": sdp})
        await self.trickle(candidates)

    async def be_answered(self) -> None:
        """Take the answer, and say that it was taken."""
        answer = await self.next("answer")
        await self.peer.accept(answer["answer"]["sdp"])
        await self._is_described()
        if self.version != 0:
            self.other_party = answer["party_id"]
            await self.send("select_answer", selected_party_id=self.other_party)

    async def place(self) -> None:
        """Both."""
        await self.ring()
        await self.be_answered()

    async def renegotiate(self) -> None:
        """Offer what the peer now sends, within the call."""
        sdp, candidates = await self.peer.offer()
        await self.send("negotiate", lifetime=LIFETIME, description={"type": "offer", "sdp": sdp})
        answer = await self.next("negotiate")
        await self.peer.accept(answer["description"]["sdp"])
        await self.trickle(candidates)

    async def hang_up(self, **content: Any) -> None:
        """End it."""
        await self.send("hangup", **content)

    # A callee.

    async def pick_up(self) -> None:
        """Wait for an invite and answer it."""
        invite = await self.next("invite")
        self.call_id = invite["call_id"]
        self.other_party = invite.get("party_id")
        sdp, candidates = await self.peer.answer(invite["offer"]["sdp"])
        await self._is_described()
        await self.send("answer", answer={"type": "answer", "sdp": sdp})
        await self.trickle(candidates)

    async def be_selected(self) -> None:
        """Wait until the caller says whose answer was taken; it must be ours."""
        assert (await self.next("select_answer"))["selected_party_id"] == self.party_id

    async def answer_negotiation(self) -> None:
        """Take an offer within the call."""
        offer = await self.next("negotiate")
        sdp, candidates = await self.peer.answer(offer["description"]["sdp"])
        await self.send("negotiate", lifetime=LIFETIME, description={"type": "answer", "sdp": sdp})
        await self.trickle(candidates)
