# SPDX-License-Identifier: Apache-2.0
"""Reporting events, rooms and users to the administrators. Client-server API, "Reporting Content".

Reports are kept for administrators to read. Whether a room or user exists is told no further than the reporter may
know: a report of a room is accepted for every id, one of an event only by who can see it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from homeserver.errors import Forbidden, InvalidParam, NotFound
from homeserver.needs import Protocol
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import check_room_id, check_user_id
from homeserver.rooms.access import RoomGate
from storage.reports import Report, ReportStore

MAX_REASON = 4000


class KnownUsers(Protocol):
    """Knows who has an account here."""

    async def existing(self, user_ids: Sequence[str]) -> Collection[str]:
        """Which of the ids are users of this server, or were."""


class Reports:
    """Takes reports."""

    def __init__(
        self, *, store: ReportStore, gate: RoomGate, users: KnownUsers, now: Callable[[], int]
    ) -> None:
        """`now` gives milliseconds since 1970."""
        self._store = store
        self._gate = gate
        self._users = users
        self._now = now

    async def report_event(
        self, reporter: str, room_id: str, event_id: str, *, reason: str | None, score: int | None
    ) -> None:
        """Report an event of a room the reporter is in. Raises NotFound, alike for all that they cannot see."""
        try:
            access, entry = await self._gate.access_event(reporter, room_id, event_id)
        except Forbidden as error:
            raise _unseen_event() from error
        if not access.is_joined:
            raise _unseen_event()
        await self._store.add(
            Report(
                self._now(), reporter, room_id, event_id, entry.stored.sender, _reason(reason), _score(score)
            )
        )

    async def report_room(self, reporter: str, room_id: str, *, reason: str | None) -> None:
        """Report a room, known here or not. Raises InvalidParam for what is no room id."""
        try:
            check_room_id(room_id)
        except IdentifierError as error:
            raise InvalidParam(str(error)) from error
        await self._store.add(Report(self._now(), reporter, room_id, reason=_reason(reason)))

    async def report_user(self, reporter: str, user_id: str, *, reason: str | None) -> None:
        """Report a user; one who has no account here is not worth keeping. Raises InvalidParam."""
        try:
            check_user_id(user_id)
        except IdentifierError as error:
            raise InvalidParam(str(error)) from error
        if user_id in await self._users.existing((user_id,)):
            await self._store.add(Report(self._now(), reporter, user_id=user_id, reason=_reason(reason)))


def _unseen_event() -> NotFound:
    return NotFound("The event was not found or you are not joined to the room.")


def _reason(reason: str | None) -> str | None:
    return None if reason is None else reason[:MAX_REASON]


def _score(score: int | None) -> int | None:
    """Scores went from -100 to 0 until v1.17, and are no longer sent since: one out of range says nothing."""
    return score if score is not None and -100 <= score <= 0 else None
