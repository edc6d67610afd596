# SPDX-License-Identifier: Apache-2.0
"""What changes in the database when a room's state is not built upon but put in place. Pure.

Owns the difference between the room as it was known (an earlier stay, an invite, a part of the members) and as it is:
current state, membership intervals, summary. Snapshots are each caller's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from immutables import Map
from msgspec import Struct, field

from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.protocol.events import Event
from homeserver.protocol.visibility import HistoryVisibility
from homeserver.rooms.engine import RoomHead
from homeserver.rooms.engine.head import StateKey, host_of
from homeserver.stream.batches import Row
from homeserver.stream.changes import Change
from storage.events import OUTLIER, StoredEvent
from storage.rooms import Member

MEMBER = "m.room.member"


class Announcer(Protocol):
    """Tells this process of a commit; the stream is one."""

    def announce(self, change: Change) -> None: ...


def room_moved(stream: Announcer, room: int, users: Sequence[str]) -> Callable[[int], Iterable[str]]:
    """What to do when `write_arrival` stands for a room: have it forgotten here before anybody looks at it.

    Rooms, members and states in memory are as good as another process had written them; the notification that says so
    (migration 0033) may come later than the answer. `users`: whose own it is, of whom must be known that they moved
    when the position is shown.
    """

    def landed(before: int) -> Iterable[str]:
        change = Change(before=before, count=1, rooms=(room,), users=users, foreign=True, whole=True)
        stream.announce(change)
        return ()

    return landed


class Piece(Struct, frozen=True):
    """A piece of the new state."""

    ordinal: int
    event: Event


State = Mapping[StateKey, Piece]


def ordinals_of(head: RoomHead) -> dict[StateKey, int]:
    """The state of a head as ordinals."""
    found = {key: entry.stored.ordinal for key, entry in head.state.items()}
    found.update(((MEMBER, user), member.ordinal) for user, member in head.members.items())
    return found


def membership_of(event: Event) -> str:
    """What a member event makes of its user."""
    membership = event.content.get("membership")
    return membership if isinstance(membership, str) else "leave"


class Changes(Struct):
    """Rows for `commit_stream`'s state, all at the one position."""

    current: list[Row] = field(default_factory=list)
    ended: list[Row] = field(default_factory=list)
    begun: list[Row] = field(default_factory=list)
    renewed: list[Row] = field(default_factory=list)

    @property
    def users(self) -> set[str]:
        """Whose memberships change."""
        return {row["user_id"] for rows in (self.ended, self.begun, self.renewed) for row in rows}


def changes_between(
    head: RoomHead,
    state: State,
    *,
    own_server: str,
    keeps: Callable[[str, Member], bool],
    renews: Callable[[str], bool] = lambda _user: False,
) -> Changes:
    """From the room as it was known to `state`.

    `keeps(user, member)` says of a user without a place in `state` whether what they were stands; `renews(user)` of one
    who stays what they were whether their interval begins anew. What is known of members on `own_server` may have come
    to the room's doorway, and be no part of its state yet.
    """
    changes = Changes()
    before = ordinals_of(head)
    for key, piece in state.items():
        if before.get(key) != piece.ordinal or (key[0] == MEMBER and host_of(key[1]) == own_server):
            changes.current.append({"type": key[0], "state_key": key[1], "ordinal": piece.ordinal})
    for key in before:
        if key in state or (key[0] == MEMBER and keeps(key[1], head.members[key[1]])):
            continue
        changes.current.append({"type": key[0], "state_key": key[1], "ordinal": None})
        if key[0] == MEMBER:
            changes.ended.append({"user_id": key[1], "i": 1})
    for key, piece in state.items():
        if key[0] == MEMBER:
            _add_member(changes, head, key[1], piece, renews)
    return changes


def _add_member(
    changes: Changes, head: RoomHead, user_id: str, piece: Piece, renews: Callable[[str], bool]
) -> None:
    membership = membership_of(piece.event)
    was = head.members.get(user_id)
    if was is not None and was.membership == membership and not renews(user_id):
        if was.ordinal != piece.ordinal:
            changes.renewed.append({"user_id": user_id, "ordinal": piece.ordinal})
        return
    if was is not None:
        changes.ended.append({"user_id": user_id, "i": 1})
    changes.begun.append(
        {
            "user_id": user_id,
            "i": 1,
            "until_i": None,
            "membership": membership,
            "ordinal": piece.ordinal,
            "sender": piece.event.sender,
            "stripped_state": None,
        }
    )


def numbered(rows: Iterable[Row]) -> list[Row]:
    """As `commit_state` wants them: of the one room there is."""
    return [{**row, "r": 0} for row in rows]


def summary_of(head: RoomHead, state: State, kept: Iterable[Member] = ()) -> dict[str, Any]:
    """The row of `room_summaries` for a state; `kept` are members that it does not name."""
    probe = RoomHead(head.room_id, head.version)
    probe.state = Map(
        {key: _entry(head, piece) for key, piece in state.items() if key[0] != MEMBER},
    )
    memberships = [membership_of(piece.event) for key, piece in state.items() if key[0] == MEMBER]
    memberships.extend(member.membership for member in kept)
    probe.joined_count = memberships.count("join")
    probe.invited_count = memberships.count("invite")
    return probe.summary()


def visibility_of(state: Mapping[StateKey, Event]) -> int:
    """The history visibility in force, as events carry it."""
    event = state.get(("m.room.history_visibility", ""))
    return int(HistoryVisibility.from_content(None if event is None else event.content))


def _entry(head: RoomHead, piece: Piece) -> RoomEvent:
    event = piece.event
    stored = StoredEvent(
        room=head.room,
        ordinal=piece.ordinal,
        position=0,
        depth=event.depth,
        origin_server_ts=event.origin_server_ts,
        snapshot=None,
        replaces=None,
        visibility=0,
        flags=OUTLIER,
        event_id=event.event_id,
        type=event.type,
        state_key=event.state_key,
        sender=event.sender,
        redacted_by=None,
        transaction_id=None,
        device_id=None,
        auth_chain=None,
        pdu="",
        replaced_pdu=None,
        redaction_pdu=None,
    )
    return RoomEvent(stored, head.room_id, head.version, event)
