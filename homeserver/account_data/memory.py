# SPDX-License-Identifier: Apache-2.0
"""Account data of users who are about, in memory: loaded whole in one query, kept right by commits, within a budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from homeserver.stream.changes import Change
from storage.account_data import AccountDataEntry

Key = tuple[int, str]
ENTRY_BYTES = 100
"""What an entry counts beside its content, so that their number is bounded too."""


class Kept(NamedTuple):
    """One entry; `content` None: deleted."""

    content: dict[str, Any] | None
    position: int
    size: int
    """Bytes of its JSON."""


class UserData:
    """All of one user's entries."""

    __slots__ = ("entries", "ignored", "latest", "size")

    def __init__(self, rows: Iterable[AccountDataEntry]) -> None:
        self.entries: dict[Key, Kept] = {}
        self.latest = 0
        self.size = 0
        """Bytes of JSON in all, with what each entry takes beside its content."""
        self.ignored: frozenset[str] | None = None
        """Whom the user ignores, once somebody asked."""
        for row in rows:
            content = None if row.content is None else orjson.loads(row.content)
            self.put((row.room, row.type), Kept(content, row.position, len(row.content or "")))

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return 500 + 4 * self.size

    def size_with(self, key: Key, size: int) -> int:
        """What `size` would be if an entry had so many bytes."""
        present = self.entries.get(key)
        return self.size + size + (ENTRY_BYTES if present is None else -present.size)

    def put(self, key: Key, kept: Kept) -> None:
        self.size = self.size_with(key, kept.size)
        self.entries[key] = kept
        self.latest = max(self.latest, kept.position)
        self.ignored = None

    def has_since(self, key: Key, position: int) -> bool:
        """Whether an entry stands as of the position, or of a later one."""
        present = self.entries.get(key)
        return present is not None and present.position >= position

    def between(self, since: int, upto: int) -> Iterator[tuple[Key, Kept]]:
        """What moved in since < position ≤ upto; for `since` 0 all there is, without what was deleted."""
        if self.latest <= since:
            return
        for key, kept in self.entries.items():
            if since < kept.position <= upto and (since > 0 or kept.content is not None):
                yield key, kept


class UserDataCache:
    """One per process, subscribed to the stream; least recently used out first."""

    def __init__(self, budget: int = 32_000_000) -> None:
        """`budget`: about how many bytes of memory to use."""
        self._budget = budget
        self._weight = 0
        self._users: OrderedDict[str, UserData] = OrderedDict()
        self.generation = 0
        """Grows with every change, so that who loads can tell whether what they read may be old."""

    @property
    def weight(self) -> int:
        """About how many bytes it holds."""
        return self._weight

    def get(self, user_id: str) -> UserData | None:
        data = self._users.get(user_id)
        if data is not None:
            self._users.move_to_end(user_id)
        return data

    def keep(self, user_id: str, data: UserData) -> None:
        self.drop((user_id,))
        self._users[user_id] = data
        self._weight += data.weight
        self._make_room()

    def landed(self, user_id: str, key: Key, content: Mapping[str, Any] | None, position: int) -> None:
        """A write of this process stands, or stood: the answer may come after a later write of another was heard of
        and read.
        """
        self.generation += 1
        data = self._users.get(user_id)
        if data is not None and not data.has_since(key, position):
            before = data.weight
            size = 0 if content is None else len(orjson.dumps(content))
            data.put(key, Kept(None if content is None else dict(content), position, size))
            self._weight += data.weight - before
            self._users.move_to_end(user_id)
            self._make_room()

    def _make_room(self) -> None:
        while self._weight > self._budget and len(self._users) > 1:
            _, evicted = self._users.popitem(last=False)
            self._weight -= evicted.weight

    def drop(self, users: Iterable[str]) -> None:
        for user_id in users:
            data = self._users.pop(user_id, None)
            if data is not None:
                self._weight -= data.weight

    def forget(self, users: Iterable[str]) -> None:
        """What is known of the users is out of date."""
        self.generation += 1
        self.drop(users)

    def changed(self, change: Change) -> Iterable[str]:
        """A commit: drop what another process may have written."""
        if change.unknown:
            self.generation += 1
            self._users.clear()
            self._weight = 0
        elif change.foreign and change.users:
            self.forget(change.users)
        return ()
