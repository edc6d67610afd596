# SPDX-License-Identifier: Apache-2.0
"""What the processes of this server tell each other of presence: nothing at all while there is only one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from homeserver.presence.board import Board
from homeserver.presence.messages import Report, decode, encode
from homeserver.presence.person import Person, View

HEARTBEAT = 60_000
"""Milliseconds between two repetitions of everything, by which a process lives."""
GONE_AFTER = 150_000

Notify = Callable[[Sequence[str]], Awaitable[object]]
"""Sends payloads to all processes, this one too."""


class Peers:
    """The other processes, as known to this one."""

    def __init__(self, *, origin: str, board: Board, notify: Notify, now: Callable[[], int]) -> None:
        self.origin = origin
        self._board = board
        self._notify = notify
        self._now = now
        self._heard_at: dict[str, int] = {}
        self._untold: dict[str, Person] = {}
        self._told_all_at = now()

    def mark(self, person: Person) -> None:
        """The others are to be told of a person."""
        self._untold[person.user_id] = person

    def drop(self, user_id: str) -> None:
        self._untold.pop(user_id, None)

    async def greet(self) -> None:
        """Make oneself known, upon which the others tell what they know."""
        await self._notify(list(encode(self.origin, (), hello=True)))

    async def tell(self) -> None:
        """Tell the others what is new."""
        untold, self._untold = self._untold, {}
        if untold and self._heard_at:
            await self._send(untold.values())

    async def tell_all(self, *, at_once: bool = False) -> None:
        """Tell the others everything, if it is time."""
        now = self._now()
        if self._heard_at and (at_once or now - self._told_all_at >= HEARTBEAT):
            self._told_all_at = now
            await self._send([person for person in self._board if person.devices])

    async def _send(self, persons: Iterable[Person]) -> None:
        people = [(person, person.views.get(self.origin, View("offline", 0))) for person in persons]
        await self._notify(list(encode(self.origin, people)))

    def read(self, payload: str) -> tuple[list[Person], bool]:
        """A notification: the persons it tells of, brought up to date, and whether everybody is to be told all.

        So it is if its sender knows of nobody yet, and once this process knows that it is not alone: until then it
        told nobody what its own users did.
        """
        message = decode(payload)
        if message.origin == self.origin:
            return [], False
        wanted = message.hello or not self._heard_at
        self._heard_at[message.origin] = self._now()
        return [self._apply(message.origin, report) for report in message.reports], wanted

    def _apply(self, origin: str, report: Report) -> Person:
        person = self._board.person(report.user_id)
        person.views[origin] = report.view
        if report.choice.set_at > person.choice.set_at:
            person.choice = report.choice
        if report.displayname is not None or report.avatar_url is not None:
            person.displayname, person.avatar_url = report.displayname, report.avatar_url
        return person

    def bury(self) -> None:
        """What a process knew that was not heard of for long counts no more."""
        now = self._now()
        self._heard_at = {peer: at for peer, at in self._heard_at.items() if now - at < GONE_AFTER}
        living = self._heard_at.keys() | {self.origin}
        for person in self._board:
            for peer in person.views.keys() - living:
                del person.views[peer]
