# SPDX-License-Identifier: Apache-2.0
"""Which rooms a response is about, and how each appears in it. Pure.

A room's section follows from the user's membership at the response's upper position; what the client already has of it
follows from the memberships up to `since`. A standing is the newest that is known, which may lie beyond the upper
position: then, and whenever it began after `since`, the user's intervals in that room decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from storage.memberships import Interval, Standing


class Joined(Struct, frozen=True):
    """In `join`."""

    room: int
    room_id: str
    joined_at: int
    """Position of the event with which this stay began."""
    fresh: bool
    """The client has no state of this stay yet: it gets all of it."""
    floor: int
    """Every event at or below was sent, or was not for this user."""
    gap_before: bool = False
    """The client may not have what lies at or below the floor."""
    told: int | None = None
    """Up to where what the client knows of the state is surely right; None: the floor."""


class Left(Struct, frozen=True):
    """In `leave`."""

    room: int
    room_id: str
    end: int
    """Position of the event that made the user's membership what it is."""
    joined_until: int | None
    """Position of the event that ended the stay of which the client has not heard the end; None: there was none, and
    the user learns of their own membership only."""
    fresh: bool
    """The client has no state of that stay."""
    floor: int
    gap_before: bool = False
    told: int | None = None


class Called(Struct, frozen=True):
    """In `invite` or `knock`."""

    room: int
    room_id: str
    membership: str
    ordinal: int
    """The user's member event."""
    sender: str
    stripped_state: str


Placement = Joined | Left | Called


def place(
    standing: Standing, intervals: Sequence[Interval] | None, since: int, upto: int
) -> Placement | None:
    """How the room appears, or None if there is nothing to say for reasons of membership.

    `intervals` are wanted (see `needs_intervals`) where the standing alone does not tell. A room that the user stays
    joined to is always placed; whether anything happened there is for others to find out.
    """
    if intervals is None:
        return _place_standing(standing, since)
    now = _at(intervals, upto)
    if now is None:
        return None
    if now.membership == "join":
        if now.since <= since:
            return Joined(standing.room, standing.room_id, now.since, False, since)
        return Joined(standing.room, standing.room_id, now.since, True, *_floor(intervals, since))
    if now.since <= since:
        return None
    if now.membership in ("invite", "knock"):
        if standing.since != now.since:
            return None  # already superseded: what came of it follows in the next response
        return _called(standing)
    return _left(standing, now, intervals, since, upto)


def needs_intervals(standing: Standing, since: int, upto: int) -> bool:
    """Whether the newest standing alone does not tell how the room appears."""
    return standing.since > upto or standing.since > since > 0


def _place_standing(standing: Standing, since: int) -> Placement | None:
    """The standing holds at the upper position, and either began before `since` or everything is asked for."""
    if standing.membership == "join":
        return Joined(standing.room, standing.room_id, standing.since, since == 0, since)
    if since > 0:
        return None
    if standing.membership in ("invite", "knock"):
        return _called(standing)
    return None


def place_archived(standing: Standing, intervals: Sequence[Interval], upto: int) -> Left | None:
    """A room the user is out of, for a first sync that includes those; None if they never were in, or forgot it."""
    now = _at(intervals, upto)
    if now is None or now.forgotten or now.membership not in ("leave", "ban"):
        return None
    stay = _last_stay(intervals, 0, upto)
    if stay is None or stay.forgotten:
        return None
    return Left(standing.room, standing.room_id, now.since, stay.until, True, 0)


def _called(standing: Standing) -> Called:
    return Called(
        standing.room,
        standing.room_id,
        standing.membership,
        standing.ordinal,
        standing.sender,
        standing.stripped_state or "[]",
    )


def _left(standing: Standing, now: Interval, intervals: Sequence[Interval], since: int, upto: int) -> Left:
    stay = None if now.forgotten else _last_stay(intervals, since, upto)
    if stay is None and not now.forgotten and _called_at(intervals, since):
        earlier = _last_stay(intervals, 0, since)
        if earlier is not None and not earlier.forgotten and earlier.until is not None:
            # It was told of the invitation, perhaps in place of the end of that stay.
            floor = _floor(intervals, since)
            return Left(standing.room, standing.room_id, now.since, earlier.until, True, *floor)
    if stay is None or stay.forgotten:
        return Left(standing.room, standing.room_id, now.since, None, False, since)
    if stay.since <= since:
        return Left(standing.room, standing.room_id, now.since, stay.until, False, since)
    return Left(standing.room, standing.room_id, now.since, stay.until, True, *_floor(intervals, since))


def _at(intervals: Iterable[Interval], position: int) -> Interval | None:
    """The interval in force once the event at a position had happened."""
    for interval in intervals:
        if interval.since <= position and (interval.until is None or position < interval.until):
            return interval
    return None


def _called_at(intervals: Sequence[Interval], position: int) -> bool:
    """Whether a client at that position saw the room as one the user is invited to, or knocks on."""
    then = _at(intervals, position)
    return then is not None and then.membership in ("invite", "knock")


def _last_stay(intervals: Sequence[Interval], since: int, upto: int) -> Interval | None:
    """The last stay that ended within the window."""
    for interval in reversed(intervals):
        if interval.membership == "join" and interval.until is not None and since < interval.until <= upto:
            return interval
    return None


def _floor(intervals: Sequence[Interval], since: int) -> tuple[int, bool, int | None]:
    """`floor`, `gap_before` and `told` for one whose stay at the end of the window is new to the client.

    (0, False, None) if it was never sent the room, or the user forgot it. Of a stay that went on at `since` the client
    has all up to there. Of one that had ended it may have nothing, since a first sync leaves out what was left; and
    one who was called again before they could be told of the end was told of the invitation instead.
    """
    for interval in reversed(intervals):
        if interval.membership == "join" and interval.since <= since:
            if interval.forgotten:
                break
            if interval.until is None or interval.until > since:
                return since, False, None
            return interval.until, True, _first_stay(intervals) if _called_at(intervals, since) else None
    return 0, False, None


def _first_stay(intervals: Sequence[Interval]) -> int | None:
    return next((i.since for i in intervals if i.membership == "join" and not i.forgotten), None)
