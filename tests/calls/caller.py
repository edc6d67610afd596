# SPDX-License-Identifier: Apache-2.0
"""A caller that is a process of its own, so that it can lose its power: calls whoever is in a room, says `heard` on
standard output once it hears its own note, and then talks on until it is killed.

    python -m tests.calls.caller PORT USER_ID TOKEN ROOM_ID
"""

from __future__ import annotations

import asyncio
import sys

from tests.calls.lines import LongPollLine, lines
from tests.calls.media_peer import MediaPeer
from tests.calls.phone import Phone

HERTZ = 1000.0
"""No note of the greeting."""


async def call(port: int, user_id: str, token: str, room_id: str) -> None:
    """Without end."""
    line = LongPollLine(port, user_id, token)
    async with lines(line):
        phone = Phone(line, room_id, MediaPeer(hertz=HERTZ))
        await phone.place()
        await phone.peer.hears(HERTZ, 5)
        sys.stdout.write("heard\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(call(int(sys.argv[1]), *sys.argv[2:5]))
