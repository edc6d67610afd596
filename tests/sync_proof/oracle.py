# SPDX-License-Identifier: Apache-2.0
"""What happened in the rooms, and what follows from it for each user: the specification restated as plainly as can be.

Owns a room's log, the state and memberships at each of its events, and the rules of "Room History Visibility".
Everything is recomputed from the log on each question: slow, and free of anything to go stale. A history's rooms are
written by one client at a time on one server, so a log is a line: the state is the newest event of each key.

Indexes count a room's events from 0; "at `now`" means with the first `now` of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
StateKey = tuple[str, str]
MEMBER = "m.room.member"
VISIBILITY = "m.room.history_visibility"
VISIBILITIES = ("world_readable", "shared", "invited", "joined")


@dataclass(slots=True)
class Logged:
    """An event, with the room's state before it."""

    event_id: str
    type: str
    sender: str
    state_key: str | None
    content: Json
    before: dict[StateKey, Logged] = field(repr=False)
    redacted_at: int | None = None
    """Index of the redaction."""
    memberships: dict[str, str] = field(default_factory=dict, repr=False)
    """Of all users, before it."""
    visibility: str = "shared"
    """The room's setting before it."""

    @property
    def key(self) -> StateKey | None:
        """Where it stands in the state."""
        return None if self.state_key is None else (self.type, self.state_key)


@dataclass(slots=True)
class RoomLog:
    """One room's events, in order."""

    room_id: str
    events: list[Logged] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    """By event id."""
    forgotten: dict[str, int] = field(default_factory=dict)
    """By user, the number of events when they last forgot the room."""

    def append(self, event: Json) -> None:
        """Take an event as clients get it, unredacted."""
        now = len(self.events)
        logged = Logged(
            event["event_id"],
            event["type"],
            event["sender"],
            event.get("state_key"),
            event["content"],
            self.state(now),
        )
        logged.memberships = {
            key[1]: entry.content["membership"] for key, entry in logged.before.items() if key[0] == MEMBER
        }
        setting = logged.before.get((VISIBILITY, ""))
        value = None if setting is None else setting.content.get("history_visibility")
        logged.visibility = value if value in VISIBILITIES else "shared"
        if logged.type == "m.room.redaction":
            target = event["content"].get("redacts") or event.get("redacts")
            if target in self.index:
                self.events[self.index[target]].redacted_at = now
        self.index[logged.event_id] = now
        self.events.append(logged)

    # State.

    def state(self, now: int) -> dict[StateKey, Logged]:
        """The state once the first `now` events had happened."""
        if now == 0:
            return {}
        last = self.events[now - 1]
        return last.before if last.key is None else {**last.before, last.key: last}

    def membership(self, user: str, now: int) -> str:
        """Of a user; `leave` for one who was never there."""
        entry = self.state(now).get((MEMBER, user))
        return "leave" if entry is None else str(entry.content["membership"])

    def count(self, membership: str, now: int) -> int:
        """How many users have that membership."""
        return sum(
            key[0] == MEMBER and entry.content["membership"] == membership
            for key, entry in self.state(now).items()
        )

    def named(self, now: int) -> bool:
        """Whether the room has a name or canonical alias to be shown by."""
        state = self.state(now)
        return any(
            bool(self.content(state[kind, ""], now).get(field_))
            for kind, field_ in (("m.room.name", "name"), ("m.room.canonical_alias", "alias"))
            if (kind, "") in state
        )

    def heroes(self, user: str, now: int) -> tuple[set[str], set[str]]:
        """Whom to name the room after: those who must be among the heroes, and those who may."""
        others = {
            key[1]: entry.content["membership"]
            for key, entry in self.state(now).items()
            if key[0] == MEMBER and key[1] != user
        }
        here = {name for name, membership in others.items() if membership in ("join", "invite")}
        if here:
            return here, here
        return {name for name, membership in others.items() if membership in ("leave", "ban")}, set(others)

    def content(self, entry: Logged, now: int) -> Json:
        """Of a name, message or the like: empty once redacted."""
        return {} if self.redacted(entry, now) else entry.content

    @staticmethod
    def redacted(entry: Logged, now: int) -> bool:
        """Whether a redaction of it is among the first `now` events."""
        return entry.redacted_at is not None and entry.redacted_at < now

    # Stays: from the event that made a user's membership `join` to the one that ended that.

    def stays(self, user: str, now: int) -> list[tuple[int, int | None]]:
        """Indexes of the events at which the user's stays began and ended; None: it goes on."""
        stays: list[tuple[int, int | None]] = []
        joined = False
        for at in range(now):
            event = self.events[at]
            if event.key == (MEMBER, user):
                was, joined = joined, event.content["membership"] == "join"
                if joined and not was:
                    stays.append((at, None))
                elif was and not joined:
                    stays[-1] = (stays[-1][0], at)
        return stays

    # Visibility.

    def visible(self, user: str, at: int, now: int) -> bool:
        """Whether a user may see the event at an index, as things stand at `now`."""
        return self._visible(user, at, self.stays(user, now))

    def visible_between(self, user: str, start: int, end: int, now: int) -> Iterator[int]:
        """The indexes in start ≤ index < end that the user may see at `now`."""
        stays = self.stays(user, now)
        return (at for at in range(start, end) if self._visible(user, at, stays))

    def _visible(self, user: str, at: int, stays: list[tuple[int, int | None]]) -> bool:
        event = self.events[at]
        settings = [event.visibility]
        if event.type == VISIBILITY and event.state_key == "":
            value = event.content.get("history_visibility")
            settings.append(value if value in VISIBILITIES else "shared")
        memberships = [event.memberships.get(user, "leave")]
        if event.key == (MEMBER, user):
            memberships.append(event.content["membership"])
        joined_later = any(end is None or end > at for _, end in stays)
        return any(
            setting == "world_readable"
            or membership == "join"
            or (setting == "shared" and joined_later)
            or (setting == "invited" and membership == "invite")
            for setting in settings
            for membership in memberships
        )
