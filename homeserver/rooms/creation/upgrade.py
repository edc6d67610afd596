# SPDX-License-Identifier: Apache-2.0
"""Replacing a room by one of another version. Client-server API, "Room Upgrades".

The order makes a failure harmless wherever it strikes: first the new room, whole or not at all; then the tombstone, on
which the user's right to end the old room is decided for good, and which of simultaneous upgrades counts (if it is
refused, the user leaves the new room, which nobody else knows of); last the aliases and the place in the directory, in
one statement that could be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from msgspec import Struct

from homeserver.errors import BadState
from homeserver.events import RoomEvent
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.protocol.power_levels import DEFAULT_LEVELS, PowerLevels, parse_level
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.access import RoomGate
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.aliases import CANONICAL, may_set_canonical
from homeserver.rooms.creation.blueprint import CREATE, POWER_LEVELS, checked_creators, protect_tombstone
from homeserver.rooms.creation.create import supported_version
from homeserver.rooms.engine import Draft, Room, RoomEngine, RoomHead
from homeserver.rooms.membership.leave import leave_plan
from homeserver.rooms.membership.member_content import MemberProfiles, member_content
from homeserver.rooms.membership.personal_settings import PersonalSettings, carry_settings_over
from homeserver.rooms.membership.writing import MEMBER, require_joined, write_member
from homeserver.rooms.refusals import insufficient_power
from homeserver.rooms.under_way import UnderWay
from homeserver.stream import Committer
from storage.room_aliases import RoomAliasStore

TOMBSTONE = "m.room.tombstone"

_TRANSFERRED = (
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
)
"""The recommended types but for the power levels, which come last: until then the creator may send everything."""


class RoomUpgrade:
    """Upgrades rooms."""

    def __init__(
        self,
        *,
        engine: RoomEngine,
        gate: RoomGate,
        profiles: MemberProfiles,
        aliases: RoomAliasStore,
        committer: Committer,
        settings: PersonalSettings,
    ) -> None:
        self._engine = engine
        self._aliases = aliases
        self._gate = gate
        self._profiles = profiles
        self._committer = committer
        self._settings = settings
        self._under_way: UnderWay[str] = UnderWay()

    async def upgrade(
        self, actor: Actor, room_id: str, new_version: str, additional_creators: Sequence[str] = ()
    ) -> str:
        """Replace the room; the new one's id. Raises UnsupportedRoomVersion, InvalidParam, Forbidden.

        An upgrade takes a moment, and who asks again meanwhile must not get another room. Raises BadState where another
        process made one in that time.
        """
        check_not_suspended(actor)
        version = supported_version(new_version)
        creators = checked_creators(list(additional_creators)) if version.privileged_creators else []
        return await self._under_way.once(
            (actor.user_id, room_id, new_version, tuple(creators)),
            lambda: self._upgrade(actor.user_id, room_id, version, creators),
        )

    async def _upgrade(
        self, user_id: str, room_id: str, version: RoomVersion, creators: Sequence[str]
    ) -> str:
        old = await self._gate.access_joined_room(user_id, room_id)
        check_may_upgrade(old.head, user_id)
        ended = _tombstone(old.head)
        successor = Successor(
            old.head,
            version,
            user_id,
            [other for other in dict.fromkeys(creators) if other != user_id],
            (await self._profiles.member_profiles((user_id,))).get(user_id, {}),
            await self._bans(old),
            {entry.alias for entry in await self._aliases.of_room(room_id)},
        )
        new = await self._engine.create(version, successor.create(), successor.events)
        assert new is not None, "only an alias can be taken"
        await self._end(old.room_id, new.room_id, user_id, ended)
        row = {"old_room_id": old.room_id, "new_room_id": new.room_id}
        await self._committer.write("room_replacement", [row])
        await carry_settings_over(self._settings, user_id, old.room_id, new.room_id)
        return new.room_id

    async def _bans(self, room: Room) -> list[RoomEvent]:
        banned = [user for user, member in room.head.members.items() if member.membership == "ban"]
        return list((await self._gate.members(room, banned)).values())

    async def _end(self, old_room_id: str, new_room_id: str, user_id: str, ended: str | None) -> None:
        """`ended`: the tombstone that was there when the new room was begun."""

        def plan(head: RoomHead) -> Iterator[Draft]:
            check_may_upgrade(head, user_id)
            if _tombstone(head) != ended and head.content(TOMBSTONE).get("replacement_room") != new_room_id:
                raise BadState("This room was replaced meanwhile")
            content = {"body": "This room has been replaced", "replacement_room": new_room_id}
            yield Draft(TOMBSTONE, user_id, content, "")
            if head.content(CANONICAL) and may_set_canonical(head, user_id):
                yield Draft(CANONICAL, user_id, {}, "")
            silenced = silenced_levels(head, user_id)
            if silenced is not None:
                yield Draft(POWER_LEVELS, user_id, silenced, "")

        try:
            await self._engine.write(old_room_id, lambda head: list(plan(head)), users=(user_id,))
        except Exception:
            leave = leave_plan(user_id, {"membership": "leave"})
            await write_member(self._engine, new_room_id, user_id, user_id, leave)
            raise


def _tombstone(head: RoomHead) -> str | None:
    """The event that ended the room last, if one did."""
    entry = head.state_event(TOMBSTONE)
    return None if entry is None else entry.stored.event_id


def check_may_upgrade(head: RoomHead, user_id: str) -> None:
    """Raise Forbidden unless the user is in the room and may send its tombstone."""
    require_joined(head, user_id)
    if not head.power_levels.may_send(user_id, TOMBSTONE, is_state=True):
        raise insufficient_power("You don't have permission to upgrade this room")


def silenced_levels(head: RoomHead, user_id: str) -> dict[str, Any] | None:
    """The old room's power levels raised so that ordinary users can neither send nor invite.

    `events_default` and `invite` become the greater of 50 and `users_default + 1`, and are never lowered. None if they
    are so already, or the user lacks the power.
    """
    levels = head.power_levels
    least = max(50, levels.named_level("users_default") + 1)
    raised = {name: least for name in ("events_default", "invite") if levels.named_level(name) < least}
    able = levels.user_level(user_id) >= least and levels.may_send(user_id, POWER_LEVELS, is_state=True)
    if levels.content is None or not raised or not able:
        return None
    return {**levels.content, **raised}


class Successor(Struct, frozen=True):
    """The events of the room that replaces another."""

    old: RoomHead
    version: RoomVersion
    creator: str
    additional_creators: Sequence[str]
    profile: Mapping[str, str]
    bans: Sequence[RoomEvent]
    aliases: Set[str]
    """Those that point to the old room and will point to the new one."""

    def create(self) -> Draft:
        """The create event: who came before, and what the old room was. `m.federate` and `type` are kept."""
        before = self.old.content(CREATE)
        predecessor: dict[str, Any] = {"room_id": self.old.room_id}
        if not self.version.privileged_creators:
            predecessor["event_id"] = self.old.extremities[0][0]
        content: dict[str, Any] = {
            key: before[key] for key in ("type", "m.federate") if before.get(key) is not None
        }
        content |= {"room_version": str(self.version), "predecessor": predecessor}
        if self.version.create_has_creator:
            content["creator"] = self.creator
        if self.additional_creators:
            content["additional_creators"] = list(self.additional_creators)
        return Draft(CREATE, self.creator, content, "")

    def events(self, _head: RoomHead) -> Iterator[Draft]:
        """All that follows."""
        yield Draft(MEMBER, self.creator, member_content("join", profile=self.profile), self.creator)
        for event_type in _TRANSFERRED:
            content = self._transferred(event_type)
            if content is not None:
                yield Draft(event_type, self.creator, content, "")
        canonical = self._canonical_aliases()
        if canonical:
            yield Draft(CANONICAL, self.creator, canonical, "")
        yield from self._children()
        yield from self._banned()
        yield Draft(POWER_LEVELS, self.creator, self._power_levels(), "")

    def _transferred(self, event_type: str) -> Mapping[str, Any] | None:
        if self.old.state_event(event_type) is None:
            return None
        content = self.old.content(event_type)
        if event_type == "m.room.join_rules" and not self._knows_rule(content.get("join_rule")):
            return {"join_rule": "invite"}
        return content

    def _knows_rule(self, rule: object) -> bool:
        known = {"knock": self.version.knock, "restricted": self.version.restricted_joins}
        return known.get(str(rule), rule != "knock_restricted" or self.version.knock_restricted)

    def _canonical_aliases(self) -> dict[str, Any]:
        content = dict(self.old.content(CANONICAL))
        if content.get("alias") not in self.aliases:
            content.pop("alias", None)
        alternatives = content.pop("alt_aliases", None)
        kept = (
            [alias for alias in alternatives if alias in self.aliases]
            if isinstance(alternatives, list)
            else []
        )
        return {**content, "alt_aliases": kept} if kept else content

    def _banned(self) -> Iterator[Draft]:
        """Who was banned stays so, unless the upgrade makes them a creator."""
        for ban in self.bans:
            user_id, reason = ban.stored.state_key, ban.event.content.get("reason")
            content = member_content("ban", reason=reason if isinstance(reason, str) else None)
            if user_id not in (self.creator, *self.additional_creators):
                yield Draft(MEMBER, self.creator, content, user_id)

    def _children(self) -> Iterator[Draft]:
        """A space keeps its children."""
        for (event_type, state_key), entry in self.old.state.items():
            if event_type == "m.space.child" and entry.event.content.get("via"):
                yield Draft(event_type, self.creator, entry.event.content, state_key)

    def _power_levels(self) -> dict[str, Any]:
        """The old room's, in the new version's terms: integers, and its creators where they belong."""
        levels, version = self.old.power_levels, self.version
        content = _as_integers(levels)
        users = content.setdefault("users", {})
        creators = (self.creator, *self.additional_creators)
        if version.privileged_creators:
            for user_id in creators:
                users.pop(user_id, None)
            protect_tombstone(version, content)
            return content
        if levels.version.privileged_creators:
            # Whose power was above all levels gets the greatest of them.
            most = max((100, *users.values(), *content.get("events", {}).values()))
            users.update({user_id: most for user_id in levels.creators if self.old.is_joined(user_id)})
        return content


def _as_integers(levels: PowerLevels) -> dict[str, Any]:
    """A power levels content in which every level is an integer; what was none is left out."""
    content: dict[str, Any] = {}
    for key, value in (levels.content or {}).items():
        if key in DEFAULT_LEVELS:
            level = parse_level(levels.version, value)
            if level is not None:
                content[key] = level
        elif key in ("users", "events", "notifications"):
            if isinstance(value, Mapping):
                parsed = {name: parse_level(levels.version, each) for name, each in value.items()}
                content[key] = {
                    name: level
                    for name, level in parsed.items()
                    if level is not None and (key != "users" or is_valid_user_id(name))
                }
        else:
            content[key] = value
    if levels.content is None and not levels.version.privileged_creators:
        content["users"] = dict.fromkeys(levels.creators, 100)
    return content
