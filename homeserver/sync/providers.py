# SPDX-License-Identifier: Apache-2.0
"""What the sync needs of other services, as narrow as it can be said.

Positions are the stream's: news is what lies in since < position ≤ upto, `since` 0 asks for everything. What is never
stored is told apart by serials of the ephemeral clock instead. All of it is asked on every wake-up of every client, so
"nothing new" must be answered from memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from homeserver.needs import Protocol
from homeserver.protocol.tokens import SyncToken
from homeserver.unread.counts import UnreadCounts

JsonObject = Mapping[str, Any]


class Receipts(Protocol):
    """Read receipts."""

    def changed(
        self, user_id: str, rooms: Sequence[int], since: int, upto: int
    ) -> Awaitable[Mapping[int, JsonObject]]:
        """By room with news: the content of its `m.receipt` event as the user may see it."""
        ...

    def at_once(
        self, user_id: str, rooms: Collection[int], since: int, upto: int
    ) -> Mapping[int, JsonObject] | None:
        """What `changed` would give; None if memory does not tell."""
        ...


class AccountDataNews(Protocol):
    """Account data that changed, as events: `{"type": …, "content": …}`."""

    @property
    def global_(self) -> Sequence[JsonObject]: ...

    @property
    def rooms(self) -> Mapping[int, Sequence[JsonObject]]: ...


class AccountData(Protocol):
    """Account data, global and by room, and what the sync itself reads there."""

    def changed(self, user_id: str, since: int, upto: int) -> Awaitable[AccountDataNews]: ...

    def ignored(self, user_id: str) -> Awaitable[frozenset[str]]:
        """Whom the user ignores (`m.ignored_user_list`)."""
        ...

    def ignored_at_once(self, user_id: str) -> frozenset[str] | None:
        """The same; None if memory does not tell."""
        ...


class Invites(Protocol):
    """Who wants none (`m.invite_permission_config`)."""

    def blocks_all(self, user_id: str) -> Awaitable[bool]: ...


class Typing(Protocol):
    """Who is typing."""

    def changed(self, user_id: str, rooms: Iterable[int], since_ms: int) -> Mapping[int, Sequence[str]]:
        """By room with news since that serial: everyone who is typing there now."""
        ...


class Presence(Protocol):
    """Who is about."""

    def changed(self, user_id: str, since_ms: int, position: int | None = None) -> Sequence[JsonObject]:
        """`m.presence` events since that serial of those who share a room with the user, and of everybody with whom
        they share one since a position of the stream.
        """
        ...

    def is_known(self, user_id: str, since_ms: int, *, moved: bool) -> bool:
        """Whether memory tells that. `moved`: whether rooms may have been joined since."""
        ...

    def learn(self) -> Awaitable[None]:
        """Return once memory tells it."""
        ...

    def seen(self, user_id: str, device_id: str | None, set_presence: str) -> object:
        """The user's device is syncing."""
        ...


class Unread(Protocol):
    """Unread notification counts (client-server API, "Receiving notifications")."""

    def counts(self, user_id: str, rooms: Sequence[int], upto: int) -> Awaitable[Mapping[int, UnreadCounts]]:
        """For each of the rooms; one that is absent has nothing unread."""
        ...

    def at_once(self, user_id: str, room: int, upto: int, ignored: frozenset[str]) -> UnreadCounts | None:
        """Of one room, for a user whom one knows to ignore those; None if that takes more than a look."""
        ...


class ExtensionNews(Struct, frozen=True):
    """Whole top-level keys of the response, each value as JSON bytes; `has_news` ends a long-poll."""

    fields: Mapping[str, bytes]
    has_news: bool
    to_device_told: int = 0
    """Messages to the device beyond this position were left for the next response; 0: none were."""


class Extension(Protocol):
    """Supplies top-level keys that are a device's own: `to_device`, `device_lists`, `device_one_time_keys_count`,
    `device_unused_fallback_key_types`."""

    @property
    def stands(self) -> bool:
        """Whether it has something to say also where nothing moved."""
        ...

    def changed(
        self, user_id: str, device_id: str | None, since: SyncToken | None, upto: int
    ) -> Awaitable[ExtensionNews]: ...

    def at_once(
        self, user_id: str, device_id: str | None, since: SyncToken, upto: int, rooms: Sequence[int]
    ) -> ExtensionNews | None:
        """What `changed` would give; None if memory does not tell.

        Nothing of the user's own has moved since, and of the rooms they are in only `rooms`.
        """
        ...

    def is_acknowledged(self, user_id: str, device_id: str | None, since: SyncToken) -> bool:
        """Whether memory tells that `acknowledge` would do nothing."""
        ...

    def acknowledge(self, user_id: str, device_id: str | None, since: SyncToken) -> Awaitable[None]:
        """The device has processed what came with the token: what was kept for it alone may go."""
        ...
