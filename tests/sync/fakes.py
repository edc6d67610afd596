# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the services beside rooms, kept in memory and controlled by the test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from homeserver.protocol.tokens import SyncToken
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.sync.beside import Providers
from homeserver.sync.providers import ExtensionNews
from homeserver.unread.counts import UnreadCounts

JsonObject = dict[str, Any]


@dataclass(slots=True)
class FakeReceipts:
    """Each told by position."""

    told: list[tuple[int, int, JsonObject]] = field(default_factory=list)
    asked: int = 0

    async def changed(
        self, user_id: str, rooms: Sequence[int], since: int, upto: int
    ) -> Mapping[int, JsonObject]:
        self.asked += 1
        return self.at_once(user_id, rooms, since, upto)

    def at_once(
        self, user_id: str, rooms: Collection[int], since: int, upto: int
    ) -> Mapping[int, JsonObject]:
        return {
            room: content
            for position, room, content in self.told
            if room in rooms and since < position <= upto
        }


@dataclass(slots=True)
class FakeNews:
    global_: list[JsonObject]
    rooms: dict[int, list[JsonObject]]


@dataclass(slots=True)
class FakeAccountData:
    """(user, room or 0, type) → (position, content)."""

    kept: dict[tuple[str, int, str], tuple[int, JsonObject]] = field(default_factory=dict)
    ignoring: dict[str, frozenset[str]] = field(default_factory=dict)
    blocking: set[str] = field(default_factory=set)
    asked: int = 0

    async def changed(self, user_id: str, since: int, upto: int) -> FakeNews:
        self.asked += 1
        news = FakeNews([], {})
        for (user, room, event_type), (position, content) in self.kept.items():
            if user == user_id and since < position <= upto:
                events = news.rooms.setdefault(room, []) if room else news.global_
                events.append({"type": event_type, "content": content})
        return news

    async def blocks_all(self, user_id: str) -> bool:
        return user_id in self.blocking

    async def ignored(self, user_id: str) -> frozenset[str]:
        return self.ignored_at_once(user_id)

    def ignored_at_once(self, user_id: str) -> frozenset[str]:
        return self.ignoring.get(user_id, frozenset())


@dataclass(slots=True)
class FakeTyping:
    """Room → (serial, who)."""

    clock: EphemeralClock
    rooms: dict[int, tuple[int, list[str]]] = field(default_factory=dict)

    def set(self, room: int, *users: str) -> None:
        self.rooms[room] = (self.clock.next(), list(users))

    def changed(self, user_id: str, rooms: Iterable[int], since_ms: int) -> Mapping[int, Sequence[str]]:
        wanted = set(rooms)
        return {
            room: who for room, (serial, who) in self.rooms.items() if room in wanted and serial > since_ms
        }


@dataclass(slots=True)
class FakePresence:
    """User → (serial, presence)."""

    clock: EphemeralClock
    users: dict[str, tuple[int, str]] = field(default_factory=dict)
    sightings: list[tuple[str, str | None, str]] = field(default_factory=list)

    def set(self, user_id: str, presence: str) -> None:
        self.users[user_id] = (self.clock.next(), presence)

    def changed(self, user_id: str, since_ms: int, position: int | None = None) -> Sequence[JsonObject]:
        return [
            {"type": "m.presence", "sender": user, "content": {"presence": presence}}
            for user, (serial, presence) in self.users.items()
            if serial > since_ms
        ]

    def is_known(self, user_id: str, since_ms: int, *, moved: bool) -> bool:
        return True

    async def learn(self) -> None:
        raise AssertionError("everything is known")

    def seen(self, user_id: str, device_id: str | None, set_presence: str) -> None:
        self.sightings.append((user_id, device_id, set_presence))


@dataclass(slots=True)
class FakeUnread:
    """(user, room) → counts."""

    kept: dict[tuple[str, int], UnreadCounts] = field(default_factory=dict)

    async def counts(self, user_id: str, rooms: Sequence[int], upto: int) -> Mapping[int, UnreadCounts]:
        return {room: self.kept[user_id, room] for room in rooms if (user_id, room) in self.kept}

    def at_once(self, user_id: str, room: int, upto: int, ignored: frozenset[str]) -> UnreadCounts:
        return self.kept.get((user_id, room), UnreadCounts())


@dataclass(slots=True)
class FakeKeys:
    """Counts of keys, the same for all devices; none until they moved."""

    stands: ClassVar[bool] = True
    moved: int = 0
    """The position at which they moved last."""

    async def changed(
        self, user_id: str, device_id: str | None, since: SyncToken | None, upto: int
    ) -> ExtensionNews:
        return self._told(since, upto)

    def at_once(
        self, user_id: str, device_id: str | None, since: SyncToken, upto: int, rooms: Sequence[int]
    ) -> ExtensionNews:
        return self._told(since, upto)

    def _told(self, since: SyncToken | None, upto: int) -> ExtensionNews:
        if not self.moved:
            return ExtensionNews({}, False)
        counts = {"device_one_time_keys_count": b'{"signed_curve25519":%d}' % self.moved}
        return ExtensionNews(counts, since is not None and since.position < self.moved <= upto)

    def is_acknowledged(self, user_id: str, device_id: str | None, since: SyncToken) -> bool:
        return True

    async def acknowledge(self, user_id: str, device_id: str | None, since: SyncToken) -> None:
        return None


@dataclass(slots=True)
class Fakes:
    """All of them."""

    receipts: FakeReceipts
    account_data: FakeAccountData
    typing: FakeTyping
    presence: FakePresence
    unread: FakeUnread
    keys: FakeKeys

    @classmethod
    def make(cls, clock: EphemeralClock) -> Fakes:
        return cls(
            FakeReceipts(),
            FakeAccountData(),
            FakeTyping(clock),
            FakePresence(clock),
            FakeUnread(),
            FakeKeys(),
        )

    def providers(self) -> Providers:
        return Providers(
            receipts=self.receipts,
            account_data=self.account_data,
            invites=self.account_data,
            typing=self.typing,
            presence=self.presence,
            unread=self.unread,
            extensions=(self.keys,),
        )
