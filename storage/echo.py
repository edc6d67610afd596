# SPDX-License-Identifier: Apache-2.0
"""The tables `echo_account` and `echo_calls`: which process is the echo account, how far it has read, and its calls.

A call's row goes with the call, so a row that is found on taking the account over is of a call that nobody ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database

_TAKE = """INSERT INTO echo_account AS a (holder, until, position)
    VALUES (%(holder)s, now() + make_interval(secs => %(seconds)s), %(position)s)
    ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE a.until < now() OR a.holder = excluded.holder OR %(alone)s
    RETURNING position"""
_RENEW = """UPDATE echo_account SET until = now() + make_interval(secs => %(seconds)s), position = %(position)s
    WHERE holder = %(holder)s"""
_BEGIN = """INSERT INTO echo_calls (room_id, call_id, party_id, version)
    VALUES (%s, %s, %s, %s) ON CONFLICT (room_id, call_id) DO NOTHING"""
_END = "DELETE FROM echo_calls WHERE room_id = %s AND call_id = %s"
_LEFT = "SELECT room_id, call_id, party_id, version FROM echo_calls"


class LeftCall(NamedTuple):
    """A call that was going on."""

    room_id: str
    call_id: str
    party_id: str
    version: str


class EchoStore:
    """Reads and writes both."""

    def __init__(self, database: Database, origin: str) -> None:
        """`origin` names this process."""
        self._database = database
        self._origin = origin

    async def take(self, seconds: float, position: int, *, alone: bool) -> int | None:
        """Become the account for so long. Gives the position up to which its events were read, at first `position`;
        None while another process is the account. `alone`: there is no other, whatever the row says."""
        row = await self._database.fetch_one(
            "echo_take",
            _TAKE,
            {"holder": self._origin, "seconds": seconds, "position": position, "alone": alone},
        )
        return None if row is None else int(row[0])

    async def renew(self, seconds: float, position: int) -> bool:
        """Be it for longer (0: no more), having read up to there. False if another process is the account."""
        parameters = {"holder": self._origin, "seconds": seconds, "position": position}
        return await self._database.execute("echo_renew", _RENEW, parameters) == 1

    async def begin(self, call: LeftCall) -> None:
        """Keep a call."""
        await self._database.execute("echo_call_begin", _BEGIN, tuple(call))

    async def end(self, room_id: str, call_id: str) -> None:
        """It is over."""
        await self._database.execute("echo_call_end", _END, (room_id, call_id))

    async def left(self) -> Sequence[LeftCall]:
        """The calls that are kept."""
        return [LeftCall._make(row) for row in await self._database.fetch("echo_calls_left", _LEFT)]
