# SPDX-License-Identifier: Apache-2.0
"""Joining a room. Client-server API, "Joining rooms", "Restricted rooms", "Guest access", "Room upgrades".

Owns the conditions of restricted joins and who vouches for them, which guests may come in, that joining twice is
joining once, which joins take another server: into rooms this server is not in, and where nobody here may vouch; and
that such a join, which may take minutes, leaves nobody in the room who closed their account meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from homeserver.errors import Forbidden, GuestAccessForbidden, RemoteServerFailed, UserDeactivated
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, Room, RoomEngine, RoomHead
from homeserver.rooms.locating import LikelyServers
from homeserver.rooms.membership.leave import leave_plan
from homeserver.rooms.membership.member_content import MemberProfiles, member_content
from homeserver.rooms.membership.personal_settings import PersonalSettings, carry_settings_over
from homeserver.rooms.membership.propagation import show_profile
from homeserver.rooms.membership.writing import MEMBER, write_member
from homeserver.rooms.remote import RemoteRooms
from homeserver.rooms.same_content import same_content
from homeserver.rooms.user_rooms import UserRooms

logger = logging.getLogger(__name__)

ROUNDS = 5
"""How often a room may turn out to be another than it was: joined by somebody else meanwhile, or left."""


class ClosedAccounts(Protocol):
    """Knows whose account is closed."""

    async def depart_again(self, user_id: str) -> bool:
        """Whether the user's account is closed; if so the user is taken out of everything once more, soon."""
        ...


class NobodyToVouch(Forbidden):
    """The conditions are met, but no member of this server has the power to let the user in."""


class Joining:
    """Lets users of this server into rooms."""

    def __init__(
        self,
        *,
        engine: RoomEngine,
        profiles: MemberProfiles,
        user_rooms: UserRooms,
        settings: PersonalSettings,
        remote: RemoteRooms,
        likely: LikelyServers,
        accounts: ClosedAccounts,
    ) -> None:
        self._engine = engine
        self._profiles = profiles
        self._user_rooms = user_rooms
        self._settings = settings
        self._remote = remote
        self._likely = likely
        self._accounts = accounts

    async def join(
        self,
        actor: Actor,
        room_id: str,
        *,
        servers: Sequence[str] = (),
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Join the room, or do nothing if the user is there and `extra` is None; the member event's id.

        `servers` may be in the room, for one that this server is not in. `extra` (a content sent as state) always makes
        a new member event unless it is the present one's. Raises UserSuspended, Forbidden, NotFound for a room that
        nobody knows, UserDeactivated for who closed their account meanwhile, and what `RemoteRooms.join` raises.
        """
        check_not_suspended(actor)
        profile = await self._profile(actor.user_id)
        content = member_content("join", profile=profile, reason=reason, extra=extra)
        for _ in range(ROUNDS):
            room = await self._engine.cache.get(room_id)
            event_id: str | None
            if room is None or not room.head.is_resident(self._engine.server_name):
                event_id = await self._join_elsewhere(actor, room_id, servers, content, profile)
            else:
                event_id = await self._join_live(actor, room, content, profile, always=extra is not None)
            if event_id is not None:
                return event_id
        raise RemoteServerFailed("The room is being joined and left; try again")

    async def _join_elsewhere(
        self,
        actor: Actor,
        room_id: str,
        servers: Sequence[str],
        content: Mapping[str, Any],
        profile: Mapping[str, str],
    ) -> str | None:
        """By way of another server; None if the room has become live."""
        if actor.is_guest:  # whether the room is open to guests is known once one is in
            raise GuestAccessForbidden("Guests may not join rooms of other servers")
        likely = await self._likely.of(room_id, actor.user_id, servers)
        event_id = await self._join_by(likely, actor.user_id, room_id, content, profile)
        if event_id is not None:
            room = await self._engine.cache.get(room_id)
            if room is not None:
                await self._carry_settings_over(actor.user_id, room.head)
        return event_id

    async def _join_live(
        self,
        actor: Actor,
        room: Room,
        content: Mapping[str, Any],
        profile: Mapping[str, str],
        *,
        always: bool,
    ) -> str | None:
        was_joined = room.head.is_joined(actor.user_id)
        try:
            event_id: str | None = await self._join_here(actor, room, content, always=always)
        except NobodyToVouch:
            able = servers_that_may_invite(room.head, self._engine.server_name)
            if not able:
                raise
            event_id = await self._join_by(able, actor.user_id, room.room_id, content, profile)
        if event_id is not None and not was_joined:
            await self._carry_settings_over(actor.user_id, room.head)
        return event_id

    async def _join_by(
        self,
        servers: Sequence[str],
        user_id: str,
        room_id: str,
        content: Mapping[str, Any],
        profile: Mapping[str, str],
    ) -> str | None:
        """As `RemoteRooms.join`, which takes long: the user may be another by then, or nobody any more."""
        event_id = await self._remote.join(user_id, room_id, servers=servers, content=content)
        if await self._accounts.depart_again(user_id):
            if event_id is not None:
                await self._leave(user_id, room_id)
            raise UserDeactivated
        if event_id is not None:
            await self._show_later_profile(user_id, room_id, profile)
        return event_id

    async def _leave(self, user_id: str, room_id: str) -> None:
        """At once; should it fail, the departure that is due again sees to it."""
        plan = leave_plan(user_id, {"membership": "leave"})
        try:
            await write_member(self._engine, room_id, user_id, user_id, plan)
        except Exception:
            logger.exception("%s closed their account and could not leave %s yet", user_id, room_id)

    async def _join_here(self, actor: Actor, room: Room, wanted: Mapping[str, Any], *, always: bool) -> str:
        user_id = actor.user_id
        elsewhere: Set[str] = frozenset()
        if is_restricted(room.head) and room.head.membership(user_id) not in ("join", "invite"):
            elsewhere = {standing.room_id for standing in await self._user_rooms.joined(user_id)}

        def plan(head: RoomHead) -> Draft | None:
            joined = head.is_joined(user_id)
            if joined and not always:
                return None
            content = dict(wanted)
            if joined:
                present = self._engine.member_event(head, user_id)
                if present is not None and same_content(present.event.content, content):
                    return None
            else:
                authoriser = check_may_join(
                    head, user_id, elsewhere, is_guest=actor.is_guest, server_name=self._engine.server_name
                )
                if authoriser is not None:
                    content["join_authorised_via_users_server"] = authoriser
            return Draft(MEMBER, user_id, content, user_id)

        return await write_member(self._engine, room.room_id, user_id, user_id, plan)

    async def _profile(self, user_id: str) -> Mapping[str, str]:
        return (await self._profiles.member_profiles((user_id,))).get(user_id, {})

    async def _show_later_profile(self, user_id: str, room_id: str, before: Mapping[str, str]) -> None:
        """Names changed while the user joined by way of another server did not reach the room.

        The join stands; a failure is logged only.
        """
        try:
            now = await self._profile(user_id)
            changes = {key: now.get(key) for key in (*before, *now) if now.get(key) != before.get(key)}
            if changes:
                room = await self._engine.cache.get(room_id)
                if room is not None:
                    await show_profile(self._engine, user_id, (room.key,), changes)
        except Exception:
            logger.exception("a name of %s that changed meanwhile is not shown in %s", user_id, room_id)

    async def _carry_settings_over(self, user_id: str, head: RoomHead) -> None:
        predecessor = head.content("m.room.create").get("predecessor")
        old_room_id = predecessor.get("room_id") if isinstance(predecessor, Mapping) else None
        if isinstance(old_room_id, str):
            standings = await self._user_rooms.of(user_id)
            if any(standing.room_id == old_room_id for standing in standings.values()):
                await carry_settings_over(self._settings, user_id, old_room_id, head.room_id)


def check_may_join(
    head: RoomHead, user_id: str, elsewhere: Set[str], *, is_guest: bool, server_name: str
) -> str | None:
    """Raise Forbidden unless the user, joined to the rooms `elsewhere`, may join.

    For a join that a restricted room's conditions allow, the member of `server_name` who vouches for it; otherwise
    None.
    """
    if is_guest and head.text("m.room.guest_access", "guest_access") != "can_join":
        raise GuestAccessForbidden("Guests may not join this room")
    if not must_meet_conditions(head, user_id):
        return None
    if elsewhere.isdisjoint(allowed_rooms(head)):
        raise Forbidden("You are not invited to this room, nor in any of the rooms whose members may join it")
    authoriser = next(who_may_invite(head, server_name), None)
    if authoriser is None:
        raise NobodyToVouch("Nobody on this server may let you into the room")
    return authoriser


def must_meet_conditions(head: RoomHead, user_id: str) -> bool:
    """Whether the user may join only as somebody whom a restricted room's conditions let in.

    Raises Forbidden where they may not join at all.
    """
    membership = head.membership(user_id)
    if membership == "ban":
        raise Forbidden("You are banned from this room")
    if membership in ("join", "invite") or head.join_rule == "public":
        return False
    if not is_restricted(head):
        raise Forbidden("You are not invited to this room.")
    return True


def is_restricted(head: RoomHead) -> bool:
    """Whether members of other rooms may join."""
    rule = head.join_rule
    return (rule == "restricted" and head.version.restricted_joins) or (
        rule == "knock_restricted" and head.version.knock_restricted
    )


def allowed_rooms(head: RoomHead) -> list[str]:
    """The rooms whose members may join: the conditions of type `m.room_membership`."""
    allow = head.content("m.room.join_rules").get("allow")
    if not isinstance(allow, list):
        return []
    return [
        condition["room_id"]
        for condition in allow
        if isinstance(condition, Mapping)
        and condition.get("type") == "m.room_membership"
        and isinstance(condition.get("room_id"), str)
    ]


def who_may_invite(head: RoomHead, server_name: str) -> Iterator[str]:
    """Joined users of a server with the power to invite, those with a level of their own first."""
    levels = head.power_levels
    named = levels.content.get("users") if levels.content is not None else None
    candidates = [*levels.creators, *(named if isinstance(named, Mapping) else ())]
    for user_id in (*candidates, *head.members):
        if may_vouch(head, user_id, server_name):
            yield user_id


def may_vouch(head: RoomHead, user_id: str, server_name: str) -> bool:
    """Whether it is a user of the server, joined, with the power to invite."""
    levels = head.power_levels
    return (
        user_id.endswith(f":{server_name}")
        and head.is_joined(user_id)
        and levels.user_level(user_id) >= levels.invite
    )


def servers_that_may_invite(head: RoomHead, own: str) -> list[str]:
    """Other servers with a joined user who has the power to invite, those with users of a level of their own first.

    Whoever may be joined counts: while a room's members are not known, nobody is known not to be.
    """
    levels = head.power_levels
    named = levels.content.get("users") if levels.content is not None else None
    candidates = [*levels.creators, *(named if isinstance(named, Mapping) else ())]
    if levels.user_level("@nobody:invalid") >= levels.invite:
        candidates.extend(head.joined_users())
    able = dict.fromkeys(
        domain_of(user_id)
        for user_id in candidates
        if head.membership(user_id) in ("join", None if head.partial_servers is not None else "join")
        and levels.user_level(user_id) >= levels.invite
    )
    return [name for name in able if name != own]
