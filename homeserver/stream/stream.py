# SPDX-License-Identifier: Apache-2.0
"""The stream as the rest of the process sees it: the position it may show, what moved lately, and who waits.

Commits made here are announced by the committer; those of other processes arrive by NOTIFY, in the database's commit
order. In both cases subscribers (room cache, per-user caches) bring themselves up to date first, then the position
moves, then listeners wake: whoever is woken for position N finds everything at or below N.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from prometheus_client import Gauge
from twisted.internet.defer import Deferred

from homeserver.needs import Protocol
from homeserver.siblings import Neighbourhood, NoSiblings
from homeserver.stream import remote_members
from homeserver.stream.changes import Change, LatestPositions
from homeserver.stream.listeners import Listener, Listeners
from homeserver.stream.positions import Positions
from homeserver.stream.remote_members import NO_ROOM
from homeserver.stream.waiting import Waiting

logger = logging.getLogger(__name__)

_POSITION = Gauge("lares_stream_position", "Newest stream position shown by this process")
_LISTENERS = Gauge("lares_stream_listeners", "Long-polls and WebSockets waiting in this process")

CHANNEL = "stream"


class Subscriber(Protocol):
    """Keeps something in memory that a commit may make stale."""

    def changed(self, change: Change) -> Iterable[str]:
        """Take note of a commit, before it is shown; return users to wake (or nobody)."""


class Notifications(Protocol):
    """What the stream needs of the database: to hear a channel, and to be told when it may have missed some."""

    def listen(
        self, channel: str, callback: Callable[[str], None], on_reconnect: Callable[[], None] | None = None
    ) -> object: ...


class Stream:
    """One per process."""

    def __init__(self, *, origin: str, position: int, siblings: Neighbourhood | None = None) -> None:
        """`siblings`: who is shown how far this process is; nobody by default."""
        self.origin = origin
        """Names this process to the others."""
        self._siblings = NoSiblings() if siblings is None else siblings
        self._has_siblings = len(self._siblings.shown) > 1
        self._reaching = Waiting()
        self._own_news = f'{{"origin" : "{origin}",'
        self._own_parts = f"{origin}\n"
        self.announcing = False
        """Whether a commit is being taken in, so that no other may be now."""
        self._parts: dict[str, list[str]] = {}
        """Lines that belong to the next notification of the stream, by the process that tells them."""
        self._positions = Positions(position)
        self._subscribers: list[Subscriber] = []
        self.rooms: LatestPositions[int] = LatestPositions(position)
        self.users: LatestPositions[str] = LatestPositions(position)
        self.listeners = Listeners()
        _POSITION.set_function(lambda: self._positions.current)
        _LISTENERS.set_function(lambda: len(self.listeners))

    @property
    def position(self) -> int:
        """The greatest position that may be shown."""
        return self._positions.current

    def subscribe(self, subscriber: Subscriber) -> None:
        """Be told of every commit, in the order of subscription."""
        self._subscribers.append(subscriber)

    def listen(self, user_id: str) -> Listener:
        """A listener that wakes whenever something the user might see has moved."""
        return self.listeners.open(user_id)

    def announce(self, change: Change) -> None:
        """A commit is durable: bring memory up to date, move the position, wake whom it concerns."""
        before, self.announcing = self.announcing, True
        try:
            self._announce(change)
        finally:
            self.announcing = before

    def _announce(self, change: Change) -> None:
        wake = set(change.users)
        wake.update(change.wake)
        for subscriber in self._subscribers:
            try:
                wake.update(subscriber.changed(change))
            except Exception:
                # A position that is never shown would hold up everybody for ever, one failing cache only its own.
                logger.exception("a subscriber of the stream failed")
        if change.unknown:
            self.rooms.forget_all(change.position)
            self.users.forget_all(change.position)
        self.rooms.record(change.rooms, change.position)
        self.users.record(change.users, change.position)
        self._positions.learn(change.before, change.count)
        wake |= self.listeners.shown(self._positions.current, self._positions.newest)
        if self._has_siblings:
            # Of its own commit a client is told at once, though this process may not show it yet.
            told = 0 if change.foreign else change.position
            self._siblings.show(max(self._positions.current, told))
        if self._reaching:
            self._reaching.reached(self._positions.current)
        if change.unknown:
            self.listeners.wake_all()
        else:
            self.listeners.wake(wake, change.position)

    def reached(self, position: int) -> Deferred[None]:
        """Fires when a position that is not shown yet is."""
        return self._reaching.until(position)

    def heard(self, payload: str) -> None:
        """A notification of the channel `stream`; our own were announced already."""
        if payload.startswith(self._own_news):  # as the database writes it; most are known by that
            return
        news: Mapping[str, Any] = orjson.loads(payload)
        origin = news["origin"]
        if origin == self.origin:
            return
        self.announce(_foreign(news, self._parts.pop(origin, ())))

    def heard_part(self, payload: str) -> None:
        """A notification of the channel `stream_parts` (`storage.stream.PARTS`)."""
        if not payload.startswith(self._own_parts):
            origin, *lines = payload.split("\n")
            self._parts.setdefault(origin, []).extend(lines)

    def missed(self, position: int) -> None:
        """Notifications may have been lost; `position` was read from the database since. Trust nothing older."""
        logger.warning("stream notifications may have been lost; caches dropped up to position=%d", position)
        self._parts.clear()
        self._positions.jump(position)
        self.announce(Change(before=position, count=0, foreign=True, unknown=True))


def _foreign(news: Mapping[str, Any], parts: Sequence[str]) -> Change:
    """What another process committed, by its notification and what came before it."""
    rooms, users, lost = (
        list(news.get("rooms") or ()),
        list(news.get("users") or ()),
        list(news.get("lost") or ()),
    )
    told: dict[int, list[str]] = {}
    lists = 0
    for line in parts:
        if line.startswith("{"):
            part = orjson.loads(line)
            rooms += part.get("rooms", ())
            users += part.get("users", ())
            lost += part.get("lost", ())
            lists += 1
        else:
            told.setdefault(int(line[: line.index(" ")]), []).append(line)
    remote, crowded = remote_members.read(told.pop(NO_ROOM)) if NO_ROOM in told else ((), ())
    return Change(
        before=news["before"],
        count=news["count"],
        rooms=rooms,
        users=users,
        foreign=True,
        unknown="rooms" not in news and news.get("parts") != lists,
        # Without an origin SQL functions notify that put rooms in place, not on.
        whole=not news["origin"] or news.get("whole") is True,
        lost=lost,
        news=told,
        remote=remote,
        crowded=crowded,
    )
