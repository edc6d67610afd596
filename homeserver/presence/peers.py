# SPDX-License-Identifier: Apache-2.0
"""What the processes of this server tell each other of presence: nothing at all while there is only one.

What is told holds, for the teller too, once it is heard. A process that is alone takes at once what it has to say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice

from homeserver.needs import Protocol
from homeserver.presence.board import Board
from homeserver.presence.messages import Message, Sender
from homeserver.presence.person import Person
from homeserver.stream.rounds import Rounds

HEARTBEAT = 60_000
"""Milliseconds between two repetitions of everything, by which a process lives."""
GONE_AFTER = 150_000
PORTION = 20
"""Notifications made in one go, of some 50 users each: users of other servers may be many."""

Notify = Callable[[Sequence[str]], Awaitable[object]]
"""Sends payloads to all processes, this one too."""


class Others(Protocol):
    """Whether there are other processes; `stream.hearing.Hearing` knows."""

    @property
    def has_others(self) -> bool: ...


class Peers:
    """The other processes, as known to this one."""

    def __init__(
        self,
        *,
        origin: str,
        board: Board,
        notify: Notify,
        others: Others,
        propose: Callable[[], int],
        now: Callable[[], int],
    ) -> None:
        """`propose` gives the serial to propose for what is told."""
        self.origin = origin
        self._board = board
        self._notify = notify
        self._others = others
        self._words = Sender(origin, propose)
        self._now = now
        self._heard_at: dict[str, int] = {}
        self._heard_self_at = now()
        self._buried: set[str] = set()
        """Those whose end was heard; as few as processes began in this one's life."""
        self._untold: dict[str, Person] = {}
        self._told_all_at = now()
        self._answers = Rounds(self._answer)
        self.urgent = False
        """Whether something is untold that others would see."""

    @property
    def alone(self) -> bool:
        """Whether nobody is to be told anything. One that was heard of may not be known of otherwise yet."""
        return not (self._others.has_others or self._heard_at)

    def say(self, person: Person) -> None:
        """What this process has to say of a person has changed."""
        if self.alone:
            person.accept(self.origin, person.report)
        else:
            self._untold[person.user_id] = person
            # The others go by what they heard: were two silent because each takes the other's old word for what is
            # shown anyway, it would be shown for ever.
            heard = person.views.get(self.origin)
            self.urgent |= (
                heard is None
                or heard.state != person.report.view.state
                or person.expected(self.origin) != person.published
            )

    def drop(self, user_id: str) -> None:
        self._untold.pop(user_id, None)

    async def greet(self) -> None:
        """Have the others tell what they know: this process is new, or may have missed what they said."""
        self._heard_at = dict.fromkeys(self._heard_at, self._now())
        await self._notify([self._words.hello()])

    async def tell(self) -> None:
        """Tell the others what is new. What they could not be told is told the next time."""
        untold, urgent = self._untold, self.urgent
        self._untold, self.urgent = {}, False
        if not untold or self.alone:
            return
        try:
            await self._send(untold.values())
        except BaseException:
            self._untold = {**untold, **self._untold}
            self.urgent |= urgent
            raise

    async def tell_all(self) -> None:
        """Tell the others again who is here, if it is time."""
        now = self._now()
        if not self.alone and now - self._told_all_at >= HEARTBEAT:
            self._told_all_at = now
            await self.tell()  # what was not urgent
            await self._send([person for person in self._board if person.devices])

    async def answer(self) -> None:
        """Tell the others of all who are remembered, also that they went: who said so may be gone, and who greets may
        be asked by a client that was told otherwise before. Those who greet together are answered together.
        """
        await self._answers.next()

    async def _answer(self) -> None:
        self._told_all_at = self._now()
        await self._send(list(self._board))

    async def _send(self, persons: Iterable[Person]) -> None:
        payloads = self._words.reports((person.user_id, person.report) for person in persons)
        while portion := list(islice(payloads, PORTION)):
            await self._notify(portion)

    def read(self, message: Message, serial: int) -> tuple[list[Person], bool]:
        """A notification: the persons it tells of, brought up to date, and whether an answer is wanted.

        So it is if its sender asks for all or takes this process for gone, and once this process knows that it is not
        alone: until then it told nobody what its own users did.
        """
        wanted = self.origin in message.gone
        if message.origin == self.origin:
            self._heard_self_at = self._now()
        else:
            wanted |= message.hello or not self._heard_at
            self._heard_at[message.origin] = self._now()
        persons: list[Person] = []
        for user_id, report in message.reports:
            known = self._board.get(user_id)
            if known is None and message.origin == self.origin:
                continue  # forgotten since it was told
            persons.append(known or self._board.person(user_id))
            persons[-1].accept(message.origin, report)
        for peer in message.gone:
            if self._heard_at.pop(peer, None) is None and peer != self.origin and peer not in self._buried:
                # It was there before this process, which until now showed everybody without what it had said.
                self._board.repeat(serial)
            self._buried.add(peer)
            for person in self._board:
                if person.views.pop(peer, None) is not None:
                    persons.append(person)
        return persons, wanted

    async def bury(self) -> None:
        """What a process knew that was not heard of for long counts no more.

        For as long as this process heard itself, that is: one that hears nothing knows nothing of others' silence.
        """
        gone = [peer for peer, at in self._heard_at.items() if self._heard_self_at - at >= GONE_AFTER]
        if gone:
            await self._notify([self._words.gone(gone)])
