# SPDX-License-Identifier: Apache-2.0
"""From what may be news to what is published, in batches whose cost is bounded however many users are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homeserver.needs import Protocol
from homeserver.presence.board import Board
from homeserver.presence.person import Choice, Person, content
from homeserver.presence.sharing import NO_ROOMS, Sharing
from homeserver.stream.listeners import Listeners
from storage.presence import KeptPresence, PresenceStore

USER_PAUSE = 3_000
"""Milliseconds between two publications of one user's presence."""
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
        serial: Callable[[], int],
        now: Callable[[], int],
    ) -> None:
        """`serial` gives the next one of the ephemeral clock, `now` the time in milliseconds."""
        self._board = board
        self._sharing = sharing
        self._store = store
        self._listeners = listeners
        self._elsewhere = elsewhere
        self._serial = serial
        self._now = now
        self._news: dict[str, Person] = {}
        self._happened_here: set[str] = set()
        self.not_before = 0
        """When the next batch may go out, in milliseconds."""

    @property
    def pending(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._news or self._sharing.stale)

    def consider(self, person: Person) -> bool:
        """Something of a person may have changed; whether it did."""
        if person.repeat or person.shown() != person.published:
            self._news[person.user_id] = person
            return True
        return False

    def happened_here(self, person: Person) -> None:
        """Other servers, which another process need not tell, are to hear of the person with the next batch."""
        if not person.remote:
            self._happened_here.add(person.user_id)
            self._news[person.user_id] = person

    def drop(self, user_id: str) -> None:
        self._news.pop(user_id, None)
        self._happened_here.discard(user_id)

    async def publish(self) -> None:
        """Publish what is due, and wake those who may know."""
        await self._load_rooms()
        now = self._now()
        told: list[Person] = []
        elsewhere: list[tuple[str, Mapping[str, Any]]] = []
        for person in [p for p in self._news.values() if now - p.published_at >= USER_PAUSE]:
            del self._news[person.user_id]
            if person.repeat or person.shown() != person.published:
                self._board.publish(person)
                told.append(person)
            if person.user_id in self._happened_here:
                self._happened_here.discard(person.user_id)
                person.told_elsewhere_at = now
                elsewhere.append(
                    (person.user_id, content(person.published, person.last_active_anywhere, now))
                )
        if elsewhere:
            self._elsewhere.presence(elsewhere)
        woken = self._board.concerned(told, self._listeners.users) if told else []
        self.not_before = now + max(BATCH_PAUSE, 1000 * len(woken) // WAKES_PER_SECOND)
        self._listeners.wake(woken)

    async def _load_rooms(self) -> None:
        """The rooms of everybody whose are not known, and newcomers' status messages: two queries for all."""
        wanted = list(self._sharing.stale)
        if not wanted:
            return
        self._sharing.stale.clear()
        newcomers = [
            p.user_id
            for p in map(self._board.get, wanted)
            if p is not None and not p.choice.set_at and not p.remote
        ]
        try:
            rooms = await self._store.joined_rooms(wanted)
            kept = await self._store.get(newcomers) if newcomers else {}
        except Exception:
            self._sharing.stale.update(wanted)
            raise
        grown = []
        for user_id in wanted:
            person = self._board.get(user_id)
            if person is not None and user_id in kept:
                restore(person, kept[user_id])
            if self._sharing.loaded(user_id, rooms.get(user_id, NO_ROOMS), self._serial()):
                grown.append(user_id)
                if person is not None and person.state != "offline":
                    person.repeat = True  # those in the new rooms don't know them yet
                    if person.devices:
                        self.happened_here(person)
            if person is not None:
                self.consider(person)
        self._listeners.wake(grown)


def restore(person: Person, kept: KeptPresence) -> None:
    """Remember what a person said before they were gone, unless they said something since."""
    if not person.choice.set_at:
        person.choice = Choice(kept.status_msg, person.choice.manual, 1)
        person.last_active = max(person.last_active, kept.last_active_ts)
