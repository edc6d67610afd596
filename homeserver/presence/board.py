# SPDX-License-Identifier: Apache-2.0
"""What was published of whom, newest last, and what of it a user gets to see."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

from homeserver.presence.person import Person, content
from homeserver.presence.sharing import Sharing


class Board:
    """One per process."""

    def __init__(
        self,
        *,
        sharing: Sharing,
        is_ours: Callable[[str], bool],
        now: Callable[[], int],
    ) -> None:
        """`is_ours`: whether a user id is of this server."""
        self._sharing = sharing
        self._is_ours = is_ours
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

    def publish(self, person: Person, serial: int) -> bool:
        """Let those who may know know how the person is now; whether that is news, which gets that serial."""
        shown = person.shown()
        changed = shown != person.published
        if changed or not person.serial:  # who was never heard of here may have been about for others
            person.published = shown
            person.published_at = self._now()
            person.serial = serial
            person.unwoken |= changed
            self._published[person.user_id] = person
            self._published.move_to_end(person.user_id)
        return changed

    def repeat(self, serial: int) -> None:
        """Everything that was published is news again, with that serial; nobody need be woken for it."""
        for person in self._published.values():
            person.serial = serial

    def concerned(self, persons: Iterable[Person], waiting: Set[str]) -> set[str]:
        """Of those who wait, whoever may know of one of the persons."""
        rooms: set[int] = set()
        themselves: set[str] = set()
        for person in persons:
            rooms |= self._sharing.rooms(person.user_id)
            if person.user_id in waiting:
                themselves.add(person.user_id)
        return themselves | self._sharing.among(waiting, rooms)

    def is_known(self, user_id: str, since: int) -> bool:
        """Whether the rooms are known that matter to what `events` gives of news since a serial."""
        sharing = self._sharing
        if not sharing.outdated:
            return True
        for person in reversed(self._published.values()):
            if person.serial <= since:
                break
            if sharing.is_outdated(user_id) or sharing.is_outdated(person.user_id):
                return False
        return True

    def events(self, user_id: str, since: int, position: int | None) -> list[dict[str, Any]]:
        """`m.presence` events published since a serial, of those who share a room with the user, and themselves.

        From the start, and of those who share a room since a position of the stream: everybody's who is not offline.
        """
        sharing = self._sharing
        events: list[dict[str, Any]] = []
        for person in reversed(self._published.values()):
            if person.serial <= since:
                break
            if (since or person.published.state != "offline") and sharing.shares(user_id, person.user_id):
                events.append(self._event(person))
        if since and position is not None:
            for person in self._met(user_id, position):
                if 0 < person.serial <= since and person.published.state != "offline":
                    events.append(self._event(person))
        return events

    def _met(self, user_id: str, position: int) -> Iterable[Person]:
        """Those with whom the user shares a room that one of them joined after a position."""
        sharing = self._sharing
        rooms = sharing.rooms(user_id)
        met = sharing.present(sharing.joined_since(user_id, position))
        for other in sharing.joiners_since(position):
            if not rooms.isdisjoint(sharing.joined_since(other, position)):
                met.add(other)
        return [person for person in map(self._persons.get, met) if person is not None]

    def _event(self, person: Person) -> dict[str, Any]:
        told = content(person.published, person.last_active_anywhere, self._now())
        return {"type": "m.presence", "sender": person.user_id, "content": told}
