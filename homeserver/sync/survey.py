# SPDX-License-Identifier: Apache-2.0
"""Going through a user's rooms at the start of a response: which are in it for reasons of membership, and how.

Runs on every wake-up of every client, so it touches only rooms that the user is in or whose standing moved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from msgspec import Struct, field

from homeserver.needs import Protocol
from homeserver.protocol.filters import SyncFilter
from homeserver.sync.joined import Moved
from homeserver.sync.placement import Called, Joined, Left, Placement, needs_intervals, place, place_archived
from homeserver.sync.providers import Invites
from homeserver.sync.request import Window
from storage.memberships import Interval, Standing


class UserRooms(Protocol):
    """A user's standing in every room; `rooms.user_rooms.UserRooms` is one."""

    def of(self, user_id: str) -> Awaitable[Mapping[int, Standing]]: ...


class Memberships(Protocol):
    """A user's past in rooms; `storage.memberships.MembershipStore` is one."""

    async def intervals(self, user_id: str, rooms: Sequence[int]) -> dict[int, list[Interval]]: ...


class Survey(Struct):
    """What there is to look at."""

    rooms: dict[int, str] = field(default_factory=dict)
    """Every room the user is in as of the response: key → id."""
    joined: list[Joined] = field(default_factory=list)
    """Those of them where events may have happened."""
    fresh: list[int] = field(default_factory=list)
    """Those of them that are new to a client that knows others."""
    left: list[Left] = field(default_factory=list)
    called: list[Called] = field(default_factory=list)

    def add(self, placement: Placement) -> None:
        if isinstance(placement, Joined):
            self.rooms[placement.room] = placement.room_id
            self.joined.append(placement)
        elif isinstance(placement, Left):
            self.left.append(placement)
        else:
            self.called.append(placement)


class Surveyor:
    """Makes surveys. One per process."""

    def __init__(
        self, user_rooms: UserRooms, memberships: Memberships, moved: Moved, invites: Invites
    ) -> None:
        self._user_rooms = user_rooms
        self._invites = invites
        self._memberships = memberships
        self._moved = moved

    async def survey(self, window: Window) -> Survey:
        """The rooms as of the window's end. One query if the user's memberships moved within it."""
        request = window.request
        standings = await self._user_rooms.of(request.user_id)
        survey = Survey()
        unclear = (
            self._survey_all(window, standings, survey)
            if window.initial
            else self._survey_changes(window, standings, survey)
        )
        if unclear:
            await self._clear_up(window, unclear, survey)
        if any(called.membership == "invite" for called in survey.called):
            await self._drop_unwanted_invites(window, survey)
        return survey

    async def _drop_unwanted_invites(self, window: Window, survey: Survey) -> None:
        """Those of ignored users, or all ("Ignoring Users", "Invite permission")."""
        none = await self._invites.blocks_all(window.request.user_id)
        survey.called = [
            called
            for called in survey.called
            if called.membership != "invite" or not (none or called.sender in window.ignored)
        ]

    def _survey_changes(
        self, window: Window, standings: Mapping[int, Standing], survey: Survey
    ) -> list[Standing]:
        """The usual case, written flat because it is run so often."""
        since, rooms, joined = window.since, survey.rooms, survey.joined
        everything = window.request.full_state
        may_have_changed = self._moved.may_have_changed
        excluded = _exclusion(window.request.filter)
        unclear: list[Standing] = []
        for key, standing in standings.items():
            if standing.since > since:
                if excluded is None or excluded.allows_room(standing.room_id):
                    unclear.append(standing)
            elif standing.membership == "join" and (
                excluded is None or excluded.allows_room(standing.room_id)
            ):
                rooms[key] = standing.room_id
                if everything or may_have_changed(key, since):
                    joined.append(Joined(key, standing.room_id, standing.since, False, since))
        return unclear

    @staticmethod
    def _survey_all(window: Window, standings: Mapping[int, Standing], survey: Survey) -> list[Standing]:
        excluded = _exclusion(window.request.filter)
        unclear: list[Standing] = []
        for standing in standings.values():
            if excluded is not None and not excluded.allows_room(standing.room_id):
                continue
            archived = window.request.filter.include_leave and standing.membership in ("leave", "ban")
            if needs_intervals(standing, 0, window.upto) or archived:
                unclear.append(standing)
            else:
                placement = place(standing, None, 0, window.upto)
                if placement is not None:
                    survey.add(placement)
        return unclear

    async def _clear_up(self, window: Window, unclear: Sequence[Standing], survey: Survey) -> None:
        """The rooms whose place the user's past there decides."""
        since, upto = window.since, window.upto
        past = await self._memberships.intervals(
            window.request.user_id, [standing.room for standing in unclear]
        )
        for standing in unclear:
            intervals = past[standing.room]
            placement = place(standing, intervals, since, upto)
            if window.initial and (placement is None or isinstance(placement, Left)):
                archived = window.request.filter.include_leave
                placement = place_archived(standing, intervals, upto) if archived else None
            if placement is None:
                continue
            survey.add(placement)
            if isinstance(placement, Joined) and placement.fresh and not window.initial:
                survey.fresh.append(placement.room)


def _exclusion(wanted: SyncFilter) -> SyncFilter | None:
    return None if wanted.selects_all_rooms else wanted
