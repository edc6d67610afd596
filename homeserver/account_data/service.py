# SPDX-License-Identifier: Apache-2.0
"""Account data (client-server API, "Client Config"): kept per user, global and per room, and told to their devices.

Owns which types clients may set, deletion (MSC3391), and what a sync has to say of it. Does not own what is in it,
except where the server itself reads it: whom a user ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct, field
from twisted.internet.defer import Deferred

from homeserver.account_data.ignored import IGNORED_USER_LIST, check_ignored_user_list, ignored_users
from homeserver.account_data.memory import Key, UserData, UserDataCache
from homeserver.errors import BadJson, InvalidParam, NotFound, TooLarge
from homeserver.needs import Protocol
from storage.account_data import AccountDataEntry

GLOBAL = 0
SERVER_MANAGED = frozenset(("m.fully_read", "m.push_rules"))
"""Types that clients read but never set ("Server Behaviour")."""
MAX_CONTENT_BYTES = 512 * 1024
MAX_USER_BYTES = 16 * 1024 * 1024
"""Of all that clients may keep for one user: it is read into memory as a whole, and sent in one first sync."""
MAX_TYPE_BYTES = 255
TRIES = 100
"""Attempts at a change: who comes too late does so because another's was made, so of as many at once all are."""


class Store(Protocol):
    async def all(self, user_id: str) -> list[AccountDataEntry]: ...

    async def one(self, user_id: str, room: int, event_type: str) -> AccountDataEntry | None: ...

    async def of_users(self, user_ids: Sequence[str], event_type: str) -> dict[str, str]: ...

    async def erase(self, user_id: str) -> None: ...


class Committer(Protocol):
    def write(
        self,
        kind: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        users: Sequence[str] = (),
        landed: Callable[[int], Iterable[str]] | None = None,
    ) -> Deferred[int]: ...


class Moved(Protocol):
    """Tells whether anything of a user moved since a position; `stream.users` is one."""

    def may_have_changed(self, key: str, since: int) -> bool: ...


class RoomOfUser(Protocol):
    """A user's standing in a room."""

    @property
    def room(self) -> int: ...

    @property
    def room_id(self) -> str: ...


class RoomsOfUser(Protocol):
    """The rooms a user has, or had, something to do with."""

    async def of(self, user_id: str) -> Mapping[int, RoomOfUser]: ...


class AccountDataChanges(Struct):
    """Entries `{"type": …, "content": …}` that moved: global ones, and by room key. A deleted one has content `{}`.

    The contents are shared: not to be changed.
    """

    global_: list[dict[str, Any]] = field(default_factory=list)
    rooms: dict[int, list[dict[str, Any]]] = field(default_factory=dict)


class AccountData:
    """One per process."""

    def __init__(
        self,
        *,
        store: Store,
        committer: Committer,
        moved: Moved,
        user_rooms: RoomsOfUser,
        cache: UserDataCache,
    ) -> None:
        """`cache` must be subscribed to the stream."""
        self._store = store
        self._committer = committer
        self._moved = moved
        self._user_rooms = user_rooms
        self._cache = cache

    # Reading.

    async def get(self, user_id: str, event_type: str, room: int = GLOBAL) -> dict[str, Any] | None:
        """The content of a type, global or of a room (by key); None if there is none. Not to be changed."""
        kept = (await self._load(user_id)).entries.get((room, event_type))
        return None if kept is None else kept.content

    async def get_of_users(self, user_ids: Sequence[str], event_type: str) -> dict[str, dict[str, Any]]:
        """The content of a global type for those of the users who have it, in one query."""
        found = await self._store.of_users(user_ids, event_type)
        return {user_id: orjson.loads(content) for user_id, content in found.items()}

    async def find(self, user_id: str, room_id: str, event_type: str) -> dict[str, Any] | None:
        """The content of a type in a room, by room id; None also for rooms the user has nothing to do with."""
        room = await self._room_key(user_id, room_id)
        return None if room is None else await self.get(user_id, event_type, room)

    async def ignored(self, user_id: str) -> frozenset[str]:
        """The users whom a user ignores."""
        return _ignored(await self._load(user_id), user_id)

    def ignored_at_once(self, user_id: str) -> frozenset[str] | None:
        """The same; None if the user's data is not in memory."""
        data = self._cache.get(user_id)
        return None if data is None else _ignored(data, user_id)

    def get_at_once(self, user_id: str, event_type: str) -> tuple[dict[str, Any] | None] | None:
        """The content of a global type as `get` gives it, in a tuple; None if the user's data is not in memory."""
        data = self._cache.get(user_id)
        if data is None:
            return None
        kept = data.entries.get((GLOBAL, event_type))
        return (None if kept is None else kept.content,)

    async def changed(self, user_id: str, since: int, upto: int) -> AccountDataChanges:
        """What moved in since < position ≤ upto; everything there is for `since` 0. No query if nothing moved."""
        changes = AccountDataChanges()
        if since > 0 and not self._moved.may_have_changed(user_id, since):
            return changes
        for (room, event_type), kept in (await self._load(user_id)).between(since, upto):
            entry = {"type": event_type, "content": {} if kept.content is None else kept.content}
            if room == GLOBAL:
                changes.global_.append(entry)
            else:
                changes.rooms.setdefault(room, []).append(entry)
        return changes

    # Writing, for clients.

    async def put(
        self, user_id: str, event_type: str, content: Mapping[str, Any], room_id: str | None = None
    ) -> None:
        """Set a type, global or in a room. Raises BadJson, TooLarge, and NotFound for a room the user never was in."""
        check_settable(event_type)
        if event_type == IGNORED_USER_LIST and room_id is None:
            check_ignored_user_list(content)
        room = await self._required_key(user_id, room_id)
        _check_total(await self._load(user_id), (room, event_type), content)
        await self.put_managed(user_id, room, event_type, content)

    async def delete(self, user_id: str, event_type: str, room_id: str | None = None) -> None:
        """Delete a type (MSC3391); nothing happens if there is none. Raises as `put`."""
        check_settable(event_type)
        room = await self._required_key(user_id, room_id)
        if await self.get(user_id, event_type, room) is not None:
            await self.put_managed(user_id, room, event_type, None)

    async def update(
        self,
        user_id: str,
        room_id: str | None,
        event_type: str,
        change: Callable[[Mapping[str, Any] | None], Mapping[str, Any] | None],
    ) -> None:
        """Change an entry, of a room or global, by a function of what it is; simultaneous changes are all made. Raises
        as `put`.

        `change` must make no difference where it was applied already: it may be, again.
        """
        room, data = await self._required_key(user_id, room_id), await self._load(user_id)

        def bounded(present: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
            changed = change(present)
            _check_total(data, (room, event_type), changed)
            return changed

        await self.update_managed(user_id, room, event_type, bounded)

    # Writing, for the server.

    async def put_managed(
        self, user_id: str, room: int, event_type: str, content: Mapping[str, Any] | None
    ) -> None:
        """Set any type; None deletes it. `room` 0: global. Raises TooLarge."""
        await self._write(user_id, room, event_type, content)

    async def update_managed(
        self,
        user_id: str,
        room: int,
        event_type: str,
        change: Callable[[Mapping[str, Any] | None], Mapping[str, Any] | None],
    ) -> None:
        """As `update`, for any type and by room key, 0: global."""
        for _ in range(TRIES):
            row = await self._store.one(user_id, room, event_type)
            present = None if row is None or row.content is None else orjson.loads(row.content)
            content = change(present)
            if content == present:
                return
            position = await self._write(
                user_id, room, event_type, content, expected=0 if row is None else row.position
            )
            written = await self._store.one(user_id, room, event_type)
            if written is not None and written.position == position:
                return
        raise TimeoutError(f"{event_type} of {user_id} was changed {TRIES} times by others meanwhile")

    async def depart(self, user_id: str, *, erase: bool) -> None:
        """The account was closed. Account data is deleted if the user asked to be forgotten."""
        if erase:
            await self._store.erase(user_id)
            self._cache.forget((user_id,))

    async def _write(
        self,
        user_id: str,
        room: int,
        event_type: str,
        content: Mapping[str, Any] | None,
        expected: int | None = None,
    ) -> int:
        """Write an entry; its position. With `expected`, it may have been refused: memory then knows nothing."""
        row = {
            "user_id": user_id,
            "room": room,
            "type": event_type,
            "content": _encoded(content),
            "expected": expected,
        }

        def landed(before: int) -> Iterable[str]:
            if expected is None:
                self._cache.landed(user_id, (room, event_type), content, before + 1)
            else:
                self._cache.forget((user_id,))
            return ()

        return await self._committer.write("account_data", [row], users=(user_id,), landed=landed) + 1

    async def _load(self, user_id: str) -> UserData:
        data = self._cache.get(user_id)
        if data is None:
            generation = self._cache.generation
            data = UserData(await self._store.all(user_id))
            if generation == self._cache.generation:
                self._cache.keep(user_id, data)
        return data

    async def _room_key(self, user_id: str, room_id: str) -> int | None:
        rooms = await self._user_rooms.of(user_id)
        return next((standing.room for standing in rooms.values() if standing.room_id == room_id), None)

    async def _required_key(self, user_id: str, room_id: str | None) -> int:
        if room_id is None:
            return GLOBAL
        room = await self._room_key(user_id, room_id)
        if room is None:
            raise NotFound("You have never been in this room")
        return room


def _ignored(data: UserData, user_id: str) -> frozenset[str]:
    if data.ignored is None:
        kept = data.entries.get((GLOBAL, IGNORED_USER_LIST))
        data.ignored = ignored_users(None if kept is None else kept.content, user_id)
    return data.ignored


def check_settable(event_type: str) -> None:
    """Raise BadJson for a type that only the server sets, InvalidParam or TooLarge for what cannot be one."""
    if event_type in SERVER_MANAGED:
        raise BadJson(f"Cannot set {event_type} through this API")
    if "\0" in event_type:
        raise InvalidParam("A type cannot contain NUL")
    if len(event_type.encode()) > MAX_TYPE_BYTES:
        raise TooLarge(f"A type is at most {MAX_TYPE_BYTES} bytes")


def _check_total(data: UserData, key: Key, content: Mapping[str, Any] | None) -> None:
    """Raise TooLarge if the user would have more than is kept for one."""
    if content is not None and data.size_with(key, len(orjson.dumps(content))) > MAX_USER_BYTES:
        raise TooLarge(f"All account data of a user is at most {MAX_USER_BYTES} bytes")


def _encoded(content: Mapping[str, Any] | None) -> str | None:
    if content is None:
        return None
    encoded = orjson.dumps(content)
    if len(encoded) > MAX_CONTENT_BYTES:
        raise TooLarge(f"Account data is at most {MAX_CONTENT_BYTES} bytes")
    return encoded.decode()
