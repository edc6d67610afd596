# SPDX-License-Identifier: Apache-2.0
"""Lists of devices: giving changes their place in the stream, and telling whose changed and who came in or out of
sight.

Client-server API, "Tracking the device list for a user" and "Extensions to /sync" of end-to-end encryption. Any
shared room counts, encrypted or not: a room may become encrypted at any time. Owns neither keys nor who is told on
other servers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from homeserver.devices.member_moves import MemberMoves
from homeserver.devices.news import DeviceNews, Moved
from homeserver.devices.remote import Announcing
from homeserver.devices.writing import Committer
from homeserver.needs import Protocol
from storage.device_lists import Sharing

DUES_AT_ONCE = 500


class Standing(Protocol):
    """A user's standing in a room."""

    @property
    def membership(self) -> str: ...

    @property
    def since(self) -> int: ...


class UserRooms(Protocol):
    """The rooms of a user, by key; `rooms.user_rooms.UserRooms` is one."""

    async def of(self, user_id: str) -> Mapping[int, Standing]: ...


class Store(Protocol):
    async def changed(self, user_id: str, rooms: Sequence[int], since: int) -> list[str]: ...

    async def sharing(self, user_id: str, rooms: Sequence[int], since: int, upto: int) -> list[Sharing]: ...

    async def rooms_of(self, user_ids: Sequence[str]) -> dict[str, set[int]]: ...

    async def due_users(self, limit: int) -> list[str]: ...

    async def is_due(self, user_id: str) -> bool: ...


class DeviceListNews(Struct, frozen=True):
    """What a client that tracks lists must know."""

    changed: Collection[str] = ()
    """Whose lists or cross-signing keys changed, or who shares a room since."""
    left: Collection[str] = ()
    """Who shared a room and does no more."""


NOTHING = DeviceListNews()


class DeviceLists:
    """One per process."""

    _log = Logger()

    def __init__(
        self,
        *,
        origin: str,
        store: Store,
        news: DeviceNews,
        member_moves: MemberMoves,
        user_rooms: UserRooms,
        committer: Committer,
        announcing: Announcing,
        is_local: Callable[[str], bool],
    ) -> None:
        self._origin = origin
        self._store = store
        self._news = news
        self._member_moves = member_moves
        self._user_rooms = user_rooms
        self._committer = committer
        self._announcing = announcing
        self._is_local = is_local
        self._under_way: dict[str, list[Deferred[None]]] = {}
        """By user being settled, those who wait for it."""
        self._settled = 0

    # Reading.

    async def changed(self, user_id: str, since: int, upto: int) -> DeviceListNews:
        """What moved for a user in since < position ≤ upto. No query if nothing did.

        A change of a list that lies beyond `upto` may be told already, and will be again.
        """
        if since >= upto:
            return NOTHING
        standings = await self._user_rooms.of(user_id)
        joined = {room for room, standing in standings.items() if standing.membership == "join"}
        moved = self._news.lists_since(user_id, joined, since)
        if moved is None:
            found = set(await self._store.changed(user_id, sorted(joined), since))
        else:
            found = await self._still_together(moved)
        await self._member_moves.read_up(joined, since)
        rooms = [room for room in joined if self._member_moves.may_have_changed(room, since)]
        if not rooms and not any(standing.since > since for standing in standings.values()):
            return DeviceListNews(found) if found else NOTHING
        left = set()
        for shared in await self._store.sharing(user_id, rooms, since, upto):
            if not shared.after:
                found.discard(
                    shared.user_id
                )  # memory knows where they were when it changed, not that they went
                if shared.before:
                    left.add(shared.user_id)
            elif not shared.throughout:
                found.add(shared.user_id)
        return DeviceListNews(found, left)

    async def _still_together(self, moved: Mapping[str, Set[int] | None]) -> set[str]:
        """Who of them is in one of the rooms still. Who left while a change was on its way to its position is
        remembered with the rooms of before: that they left may have been told already, and would not be told again.
        """
        found, unsure = set(), []
        for other, rooms in moved.items():
            known = [True] if rooms is None else [self._member_moves.is_joined(room, other) for room in rooms]
            if True in known:
                found.add(other)
            elif None in known:
                unsure.append(other)
        if unsure:
            for other, now in (await self._store.rooms_of(unsure)).items():
                if not now.isdisjoint(moved[other] or ()):
                    found.add(other)
        return found

    def none_since(self, since: int, rooms: Iterable[int]) -> bool:
        """Whether memory tells that nothing moved after a position for a user in whose rooms, of which only those
        moved, they were all along."""
        return self._news.newest_list <= since and not any(
            self._member_moves.may_have_changed(room, since) for room in rooms
        )

    # Writing.

    async def settle(self, users: Iterable[str]) -> None:
        """Give what is due of users its position: their clients, and all who share a room with them, are told.

        Called after the transaction that made it due is committed; does no harm where nothing is due.
        """
        named = sorted(set(users))
        if not named:
            return
        # Not from the memory of users' rooms: of users of other servers it need not hear.
        rooms = {user_id: frozenset(of) for user_id, of in (await self._store.rooms_of(named)).items()}
        for user_id in named:
            self._under_way.setdefault(user_id, [])
        try:
            await self._settle(named, rooms)
        finally:
            self._settled += 1
            waiting = [done for user_id in named for done in self._under_way.pop(user_id, ())]
            for done in waiting:
                done.callback(None)

    async def _settle(self, named: Sequence[str], rooms: Mapping[str, frozenset[int]]) -> None:
        rows = [
            {
                "origin": self._origin,
                "user_id": user_id,
                "announce": self._announcing.wanted and self._is_local(user_id),
            }
            for user_id in named
        ]

        def landed(before: int) -> Iterable[str]:
            return self._news.landed(
                [
                    Moved("lists", before + n, user_id, rooms=rooms[user_id])
                    for n, user_id in enumerate(named, 1)
                ]
            )

        await self._committer.write("device_lists", rows, landed=landed)
        self._announcing.due()

    def missed(self) -> None:
        """Notifications may have been lost."""
        Deferred.fromCoroutine(self._settle_missed())

    async def _settle_missed(self) -> None:
        try:
            await self.settle_all()
        except Exception:
            self._log.failure("changes of devices are not told yet")

    async def settle_all(self) -> None:
        """Settle what was left due by a process that ended in between."""
        while users := await self._store.due_users(DUES_AT_ONCE):
            await self.settle(users)
            if len(users) < DUES_AT_ONCE:
                return

    def heard(self, user_id: str) -> None:
        """A notification: something became due of a user, by whatever way (a log-out, a rename, …)."""
        Deferred.fromCoroutine(self._settle_if_due(user_id))

    async def _settle_if_due(self, user_id: str) -> None:
        try:
            while True:
                settled = self._settled
                if not await self._store.is_due(user_id):
                    return
                if user_id in self._under_way:
                    done: Deferred[None] = Deferred()
                    self._under_way[user_id].append(done)
                    await done
                elif settled == self._settled:
                    await self.settle((user_id,))
                    return
        except Exception:
            # It stays due, and is settled with the user's next change, or when a server starts.
            self._log.failure("a change of {user_id}'s devices is not told yet", user_id=user_id)
