# SPDX-License-Identifier: Apache-2.0
"""From what may be news to what others wake for, in batches whose cost is bounded however many users are about.

What all processes hear is published as it is heard, by `service`; what is left to do then is to wake who waits. A
process that is alone publishes here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homeserver.needs import Protocol
from homeserver.presence.board import Board
from homeserver.presence.peers import Peers
from homeserver.presence.person import Choice, Person, content
from homeserver.presence.sharing import Sharing
from homeserver.stream.listeners import Listeners
from homeserver.stream.rounds import Rounds
from storage.presence import KeptPresence, PresenceStore

USER_PAUSE = 3_000
"""Milliseconds between two times that others are woken for one user's presence."""
BATCH_PAUSE = 1_000
WAKES_PER_SECOND = 50
"""A batch that woke many is followed by a pause in proportion; who wakes for something else sees the news anyway."""


class PresenceElsewhere(Protocol):
    """Other servers that share rooms with this one's users."""

    def presence(self, people: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """User ids with the content of their `m.presence`, as local users get it."""
        ...


class NobodyElsewhere:
    """For a server that knows no others."""

    def presence(self, people: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Nobody is told."""


class Publication:
    """One per process."""

    def __init__(
        self,
        *,
        board: Board,
        sharing: Sharing,
        store: PresenceStore,
        listeners: Listeners,
        elsewhere: PresenceElsewhere,
        peers: Peers,
        serial: Callable[[], int],
        now: Callable[[], int],
    ) -> None:
        """`serial` gives the next one of the ephemeral clock, `now` the time in milliseconds."""
        self._board = board
        self._sharing = sharing
        self._store = store
        self._listeners = listeners
        self._elsewhere = elsewhere
        self._peers = peers
        self._serial = serial
        self._now = now
        self._news: dict[str, Person] = {}
        self._happened_here: set[str] = set()
        self._loads = Rounds(self._load_rooms)
        self.not_before = 0
        """When the next batch may go out, in milliseconds."""

    @property
    def pending(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._news or self._sharing.stale or self._sharing.placed or self._peers.urgent)

    def note(self, person: Person) -> None:
        """Something of a person is news."""
        self._news[person.user_id] = person

    def happened_here(self, person: Person) -> None:
        """Other servers, which another process need not tell, are to hear of the person with the next batch."""
        if not person.remote:
            self._happened_here.add(person.user_id)
        self._news[person.user_id] = person

    def pause(self) -> None:
        """It failed."""
        self.not_before = self._now() + BATCH_PAUSE

    def drop(self, user_id: str) -> None:
        self._news.pop(user_id, None)
        self._happened_here.discard(user_id)

    async def learn_rooms(self) -> None:
        """Return once the rooms are known of everybody who is tracked."""
        if self._sharing.outdated:
            await self._loads.next()

    async def publish(self) -> None:
        """Tell what is due, and wake those who may know."""
        looked_up = self._sharing.outdated
        await self.learn_rooms()
        now = self._now()
        told: list[Person] = []
        elsewhere: list[tuple[str, Mapping[str, Any]]] = []
        for person in [p for p in self._news.values() if now - p.woken_at >= USER_PAUSE]:
            del self._news[person.user_id]
            if self._peers.alone:
                self._board.publish(person, self._serial())
            if person.unwoken:
                person.unwoken = False
                person.woken_at = now
                told.append(person)
            if (
                person.user_id in self._happened_here
                and person.expected(self._peers.origin) == person.published
            ):
                self._happened_here.discard(person.user_id)
                person.told_elsewhere_at = now
                elsewhere.append(
                    (person.user_id, content(person.published, person.last_active_anywhere, now))
                )
        if elsewhere:
            self._elsewhere.presence(elsewhere)
        woken = self._board.concerned(told, self._listeners.users) if told else []
        if told or self._news or (looked_up and not self._peers.urgent):
            # What was only said here is to be heard first, soon.
            self.not_before = now + max(BATCH_PAUSE, 1000 * len(woken) // WAKES_PER_SECOND)
        self._listeners.wake(woken)

    async def _find_members(self) -> None:
        """Whose rooms became others by this server's coming into them, or by learning of their members."""
        placed = self._sharing.take_placed()
        if placed:
            try:
                members = await self._store.joined_users(placed)
            except BaseException:
                self._sharing.failed()
                raise
            self._sharing.found(members)

    async def _load_rooms(self) -> None:
        """The rooms of everybody whose are not known, and newcomers' status messages: two queries for all, and one
        before them where rooms of other servers were entered."""
        await self._find_members()
        wanted = self._sharing.take()
        if not wanted:
            return
        newcomers = [
            p.user_id
            for p in map(self._board.get, wanted)
            if p is not None and not p.chosen.set_at and p.devices
        ]
        try:
            rooms = await self._store.joined_rooms(wanted)
            kept = await self._store.get(newcomers) if newcomers else {}
        except BaseException:
            self._sharing.failed()
            raise
        for user_id in wanted:
            grown = self._sharing.loaded(user_id, rooms.get(user_id, {}))
            person = self._board.get(user_id)
            if person is None:
                continue
            if user_id in kept:
                restore(person, kept[user_id])
            if person.is_unsaid(self._peers.origin):
                self._peers.say(person)
            shown = person.expected(self._peers.origin)
            if grown and person.devices and shown.state != "offline":
                self.happened_here(person)  # those in the new rooms don't know them yet
            if shown != person.published:
                self.note(person)


def restore(person: Person, kept: KeptPresence) -> None:
    """Remember what a person said before they were gone, unless they said something since."""
    if not person.chosen.set_at:
        person.own_choice = Choice(kept.status_msg, None, 1)
        person.last_active = max(person.last_active, kept.last_active_ts)
