# SPDX-License-Identifier: Apache-2.0
"""A room's head: the place where its next event goes, and everything that follows from its present state.

A head is a value: once published it is never changed, a commit puts another in its place. Members are kept apart from
the other state and small, since they are many; their events are loaded when needed (`member_events`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from enum import Enum, auto
from typing import Any

from immutables import Map
from msgspec import Struct
from msgspec.structs import replace

from homeserver.events import RoomEvent
from homeserver.protocol.policy_servers import POLICY, PolicyServer
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.room_versions import RoomVersion, room_version
from homeserver.protocol.server_acl import ServerAcl
from homeserver.protocol.visibility import HistoryVisibility
from storage.rooms import LoadedRoom, Member

StateKey = tuple[str, str]

_EMPTY: Mapping[str, Any] = {}
_NO_STATE: Map[StateKey, RoomEvent] = Map()


class _Unread(Enum):
    """In place of what was not read from the state yet, where None is something that may be read."""

    UNREAD = auto()


class RoomHead(Struct, eq=False):
    """See the module. Fields are those of the tables `rooms`, `current_state` and `memberships`."""

    room_id: str
    version: RoomVersion
    room: int = 0
    head: int = 0
    depth: int = 0
    extremities: tuple[tuple[str, int], ...] = ()
    next_ordinal: int = 1
    snapshot: int = 0
    next_snapshot: int = 1
    snapshot_weight: int = 0
    position: int = 0
    oldest_position: int = 0
    """The lowest position taken by history; the next goes below it."""
    state: Map[StateKey, RoomEvent] = _NO_STATE
    members: Map[str, Member] = Map()
    joined_count: int = 0
    invited_count: int = 0
    hosts: Map[str, int] = Map()
    """Joined members by server."""
    partial_servers: frozenset[str] | None = None
    """While most members are not known yet, the servers that are said to be in the room; None: all are known."""
    fresh_members: Map[str, RoomEvent] = Map()
    """Member events appended since the last commit, and those loaded for it: whether a cache holds them or not.
    One that `members` does not name by its ordinal is not the newest."""
    resolved_from: frozenset[int] | None = None
    """Snapshots of the states after the extremities, which `snapshot` resolves, where it is not the only one
    of them; None: it is, or they are not at hand."""
    _power_levels: PowerLevels | None = None
    _server_acl: ServerAcl | None = None
    _named_policy_server: PolicyServer | _Unread | None = _Unread.UNREAD
    _weighed: tuple[Map[StateKey, RoomEvent], int] = (_NO_STATE, 0)
    """A state and its weight: for as long as it is this one it need not be weighed again."""

    @classmethod
    def of(cls, loaded: LoadedRoom) -> RoomHead:
        """The head of a room as it was loaded."""
        version = room_version(loaded.version)
        head = cls(loaded.room_id, version)
        head.room = loaded.room
        head.head = loaded.head
        head.depth = loaded.depth
        head.extremities = tuple(loaded.extremities)
        head.next_ordinal = loaded.next_ordinal
        head.snapshot = loaded.snapshot
        head.next_snapshot = loaded.next_snapshot
        head.snapshot_weight = loaded.snapshot_weight
        head.position = loaded.position
        head.state = Map(
            {(e.type, e.state_key or ""): RoomEvent(e, loaded.room_id, version) for e in loaded.state}
        )
        head.members = Map(loaded.members)
        head.oldest_position = loaded.oldest_position
        hosts: dict[str, int] = {}
        for user_id, member in loaded.members.items():
            head.invited_count += member.membership == "invite"
            if member.membership == "join":
                head.joined_count += 1
                host = host_of(user_id)
                hosts[host] = hosts.get(host, 0) + 1
        head.hosts = Map(hosts)
        head.partial_servers = loaded.partial_servers
        return head

    def copy(self) -> RoomHead:
        """A head to build on; sharing is safe because the maps are persistent."""
        return replace(self)

    # What the state says.

    def state_event(self, event_type: str, state_key: str = "") -> RoomEvent | None:
        """The state event there; members are not among them (`members`, `member_events`)."""
        return self.state.get((event_type, state_key))

    def content(self, event_type: str, state_key: str = "") -> Mapping[str, Any]:
        """Content of a state event other than a member's; empty if there is none."""
        entry = self.state.get((event_type, state_key))
        return _EMPTY if entry is None else entry.event.content

    def text(self, event_type: str, key: str) -> str | None:
        """A string in a state event's content, or None if it is absent or no string."""
        value = self.content(event_type).get(key)
        return value if isinstance(value, str) else None

    def membership(self, user_id: str) -> str | None:
        """The user's membership now; None if there never was one."""
        member = self.members.get(user_id)
        return None if member is None else member.membership

    def is_joined(self, user_id: str) -> bool:
        member = self.members.get(user_id)
        return member is not None and member.membership == "join"

    def joined_users(self) -> Iterator[str]:
        return (user for user, member in self.members.items() if member.membership == "join")

    # Which servers take part.

    def count_member(self, user_id: str, was: str | None, now: str | None) -> None:
        """A member's standing changes: keep the counts and the hosts."""
        self.invited_count += (now == "invite") - (was == "invite")
        change = (now == "join") - (was == "join")
        if change:
            self.joined_count += change
            host = host_of(user_id)
            count = self.hosts.get(host, 0) + change
            self.hosts = self.hosts.set(host, count) if count > 0 else self.hosts.delete(host)

    def is_resident(self, server_name: str) -> bool:
        """Whether a user of the server is joined. Of a room without any of ours nothing new is heard: it is old."""
        return server_name in self.hosts

    def has_other_hosts(self, own: str) -> bool:
        """Whether a user of another server than `own` is joined."""
        return len(self.hosts) > (own in self.hosts) or self.partial_servers is not None

    def other_hosts(self, own: str) -> set[str]:
        """The servers other than `own` with a joined user."""
        hosts = {host for host in self.hosts if host != own}
        return hosts if self.partial_servers is None else hosts.union(self.partial_servers) - {own}

    @property
    def server_acl(self) -> ServerAcl:
        """Which servers may take part; all where the room does not say."""
        if self._server_acl is None:
            entry = self.state_event("m.room.server_acl")
            self._server_acl = ALLOWS_ALL if entry is None else ServerAcl.from_content(entry.event.content)
        return self._server_acl

    @property
    def policy_server(self) -> PolicyServer | None:
        """The policy server that the room uses now; None for most rooms, at the cost of a look at one field."""
        named = self._named_policy_server
        if named is None:
            return None
        if named is _Unread.UNREAD:
            entry = self.state_event(*POLICY)
            named = None if entry is None else PolicyServer.from_content(entry.event.content)
            self._named_policy_server = named
        if named is None or named.is_enabled(self.hosts):
            return named
        # While most members are not known, the servers that are said to be in the room are.
        told = self.partial_servers
        return named if told is not None and named.is_enabled(told) else None

    @property
    def power_levels(self) -> PowerLevels:
        """Levels in force, defaults and creators included."""
        if self._power_levels is None:
            levels = self.state_event("m.room.power_levels")
            create = self.state_event("m.room.create")
            self._power_levels = (
                PowerLevels(self.version, None, frozenset())
                if create is None
                else PowerLevels.of_events(None if levels is None else levels.event, create.event)
            )
        return self._power_levels

    @property
    def join_rule(self) -> str:
        """`invite` when unset or malformed, as the authorization rules read it."""
        return self.text("m.room.join_rules", "join_rule") or "invite"

    @property
    def history_visibility(self) -> HistoryVisibility:
        entry = self.state_event("m.room.history_visibility")
        return HistoryVisibility.from_content(None if entry is None else entry.event.content)

    def forget_derived(self) -> None:
        """After a state event in place was redacted."""
        self._power_levels = None
        self._server_acl = None
        self._named_policy_server = _Unread.UNREAD

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        state, weight = self._weighed
        if state is not self.state:
            state, weight = self.state, sum(entry.weight for entry in self.state.values())
            self._weighed = state, weight
        return 2000 + 250 * len(self.members) + weight

    def summary(self) -> dict[str, Any]:
        """The row of `room_summaries`. NUL, which Postgres cannot store, is left out of texts."""
        row: dict[str, Any] = {
            "name": self.text("m.room.name", "name"),
            "topic": self.text("m.room.topic", "topic"),
            "canonical_alias": self.text("m.room.canonical_alias", "alias"),
            "avatar_url": self.text("m.room.avatar", "url"),
            "join_rule": self.join_rule,
            "guest_can_join": self.text("m.room.guest_access", "guest_access") == "can_join",
            "world_readable": self.history_visibility is HistoryVisibility.WORLD_READABLE,
            "room_type": self.text("m.room.create", "type"),
            "encryption": self.text("m.room.encryption", "algorithm"),
            "joined_members": self.joined_count,
            "invited_members": self.invited_count,
        }
        return {
            key: value.replace("\0", "") if isinstance(value, str) and "\0" in value else value
            for key, value in row.items()
        }


def host_of(user_id: str) -> str:
    """The server of a user id."""
    return user_id.partition(":")[2]


def concerned(head: RoomHead, listening: Set[str]) -> list[str]:
    """Of the users who wait, those joined to the room; walks over the members or over those who wait, the fewer."""
    members = head.members
    if len(members) < len(listening):
        return [user for user, m in members.items() if m.membership == "join" and user in listening]
    return [user for user in listening if (m := members.get(user)) is not None and m.membership == "join"]


ALLOWS_ALL = ServerAcl.from_content({"allow": ["*"]})

DERIVED_FROM = frozenset(
    (("m.room.power_levels", ""), ("m.room.create", ""), ("m.room.server_acl", ""), POLICY)
)
"""State that `forget_derived` goes with."""

SUMMARY_TYPES = frozenset(
    (
        "m.room.name",
        "m.room.topic",
        "m.room.canonical_alias",
        "m.room.avatar",
        "m.room.join_rules",
        "m.room.guest_access",
        "m.room.history_visibility",
        "m.room.create",
        "m.room.encryption",
    )
)
"""State event types that a room's summary is made of, besides memberships."""
