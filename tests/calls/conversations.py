# SPDX-License-Identifier: Apache-2.0
"""A whole call of two people, by whichever lines and servers: the same proof for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.calls.lines import LongPollLine, lines
from tests.calls.media_peer import COLOURS, MediaPeer
from tests.calls.phone import Phone


async def call_each_other(
    caller: LongPollLine, callee: LongPollLine, room_id: str, *, versions: Sequence[object] = ("1", "1")
) -> None:
    """Sound and pictures both ways, pictures of the callee added within the call, then the caller hangs up."""
    async with lines(caller, callee):
        alice = Phone(caller, room_id, MediaPeer(hertz=440, colour=COLOURS[0]), version=versions[0])
        bob = Phone(callee, room_id, MediaPeer(hertz=880), version=versions[1])
        try:
            await asyncio.gather(alice.place(), bob.pick_up())
            await asyncio.gather(alice.peer.hears(880), bob.peer.hears(440), bob.peer.sees(COLOURS[0]))
            if versions[0] != 0:
                await bob.be_selected()
                assert alice.other_party == bob.party_id
                bob.peer.show(COLOURS[1])
                await asyncio.gather(bob.renegotiate(), alice.answer_negotiation())
                await alice.peer.sees(COLOURS[1])
            await alice.hang_up()
            await bob.next("hangup")
        finally:
            await asyncio.gather(alice.put_down(), bob.put_down())
