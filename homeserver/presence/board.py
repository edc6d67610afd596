# SPDX-License-Identifier: Apache-2.0
"""What was published of whom, newest last, and what of it a user gets to see."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from homeserver.presence.person import Person, content
from homeserver.presence.sharing import Sharing
from homeserver.stream.ephemeral import EphemeralClock


class Board:
    """One per process."""

    def __init__(
        self,
        *,
        sharing: Sharing,
        clock: EphemeralClock,
        is_ours: Callable[[str], bool],
        now: Callable[[], int],
    ) -> None:
        """`is_ours`: whether a user id is of this server."""
        self._sharing = sharing
        self._is_ours = is_ours
        self._clock = clock
        self._now = now
        self._persons: dict[str, Person] = {}
        self._published: OrderedDict[str, Person] = OrderedDict()
        self.remote_count = 0
        """Users of other servers among those known."""

    def __iter__(self) -> Iterator[Person]:
        return iter(self._persons.values())

    def get(self, user_id: str) -> Person | None:
        return self._persons.get(user_id)

    def person(self, user_id: str) -> Person:
        """The user's record, a new one if need be."""
        person = self._persons.get(user_id)
        if person is None:
            person = self._persons[user_id] = Person(user_id, remote=not self._is_ours(user_id))
            self.remote_count += person.remote
        return person

    def forget(self, user_id: str) -> None:
        person = self._persons.pop(user_id, None)
        if person is not None:
            self.remote_count -= person.remote
        self._published.pop(user_id, None)

    def publish(self, person: Person) -> None:
        """Let those who may know know how the person is now."""
        person.published = person.shown()
        person.published_at = self._now()
        person.serial = self._clock.next()
        person.repeat = False
        self._published[person.user_id] = person
        self._published.move_to_end(person.user_id)

    def concerned(self, persons: Iterable[Person], waiting: Iterable[str]) -> list[str]:
        """Of those who wait, whoever may know of one of the persons."""
        rooms: set[int] = set()
        themselves: set[str] = set()
        for person in persons:
            rooms |= self._sharing.rooms(person.user_id)
            themselves.add(person.user_id)
        sharing = self._sharing
        return [u for u in waiting if u in themselves or not rooms.isdisjoint(sharing.rooms(u))]

    def events(self, user_id: str, since: int) -> list[dict[str, Any]]:
        """`m.presence` events published since a serial, of those who share a room with the user, and themselves.

        From the start, and of rooms that are new to the user: everybody's who is not offline.
        """
        sharing = self._sharing
        events: list[dict[str, Any]] = []
        for person in reversed(self._published.values()):
            if person.serial <= since:
                break
            if (since or person.published.state != "offline") and sharing.shares(user_id, person.user_id):
                events.append(self._event(person))
        new = sharing.rooms_new_since(user_id, since) if since else frozenset()
        if new:
            for person in self._published.values():
                if person.serial > since:
                    break
                if person.published.state != "offline" and not new.isdisjoint(sharing.rooms(person.user_id)):
                    events.append(self._event(person))
        return events

    def _event(self, person: Person) -> dict[str, Any]:
        told = content(person.published, person.last_active_anywhere, self._now())
        return {"type": "m.presence", "sender": person.user_id, "content": told}
