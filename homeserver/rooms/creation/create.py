# SPDX-License-Identifier: Apache-2.0
"""Making a room: every check first, then one commit of all its events, its alias and its place in the directory."""

from __future__ import annotations

import logging

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.errors import BadAlias, InvalidParam, InvalidRoomState, RoomInUse, UnsupportedRoomVersion
from homeserver.protocol.errors import IdentifierError, UnsupportedRoomVersionError
from homeserver.protocol.event_auth import AuthError
from homeserver.protocol.identifiers import check_room_alias
from homeserver.protocol.room_versions import RoomVersion, room_version
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.aliases import CANONICAL, canonical_aliases
from homeserver.rooms.creation.blueprint import CREATE, Blueprint
from homeserver.rooms.creation.wishes import EncryptedByDefault, RoomWishes
from homeserver.rooms.directory import RoomDirectory
from homeserver.rooms.engine import DirectoryEntry, RoomEngine
from homeserver.rooms.membership.invite import Inviting
from homeserver.rooms.membership.member_content import MemberProfiles
from homeserver.rooms.membership.writing import MEMBER
from storage.room_aliases import RoomAliasStore

logger = logging.getLogger(__name__)

MAX_INVITES = 100
"""Users invited with the creation; more are invited afterwards, one by one."""


class RoomCreation:
    """Makes rooms."""

    def __init__(
        self,
        *,
        engine: RoomEngine,
        profiles: MemberProfiles,
        inviting: Inviting,
        aliases: RoomAliasStore,
        directory: RoomDirectory,
        default_version: str,
        encrypted_by_default: EncryptedByDefault,
        without_keys: frozenset[str] = frozenset(),
        group_calls: bool = False,
    ) -> None:
        """`group_calls`: whether there are any, so that rooms should let their members into them."""
        self._engine = engine
        self._profiles = profiles
        self._inviting = inviting
        self._aliases = aliases
        self._directory = directory
        self._default_version = room_version(default_version)
        self._encrypted_by_default = encrypted_by_default
        self._without_keys = without_keys
        self._group_calls = group_calls
        self._being_taken: set[str] = set()

    async def create(self, actor: Actor, wishes: RoomWishes) -> str:
        """Make the room; its id.

        Raises UnsupportedRoomVersion, InvalidParam, BadAlias, RoomInUse, InvalidRoomState, Forbidden, InviteBlocked.
        """
        check_not_suspended(actor)
        version = self._version(wishes)
        if wishes.visibility == "public":
            self._directory.check_may_publish_new(actor)
        await self._check_invites(actor, wishes)
        alias = self._alias(wishes)
        check_initial_state(wishes, alias)
        profiles = await self._profiles.member_profiles((actor.user_id, *wishes.invite))
        encrypted = is_encrypted(wishes, self._encrypted_by_default)
        if not self._without_keys.isdisjoint(wishes.invite):
            encrypted = False
        plan = Blueprint(
            wishes, version, actor.user_id, alias, profiles, encrypted, group_calls=self._group_calls
        )
        room_id = await self._make_named(plan, alias)
        await self._invite_elsewhere(actor, room_id, wishes)
        return room_id

    async def _make_named(self, plan: Blueprint, alias: str | None) -> str:
        if alias is None:
            return await self._make(plan)
        if alias in self._being_taken or alias in await self._aliases.get((alias,)):
            raise RoomInUse(f"Room alias {alias} is taken")
        # Two rooms of one group commit would not see each other's alias: never let two of this process get that far.
        self._being_taken.add(alias)
        try:
            return await self._make(plan)
        finally:
            self._being_taken.discard(alias)

    async def _make(self, plan: Blueprint) -> str:
        entry = DirectoryEntry(plan.creator, plan.alias, plan.wishes.visibility == "public")
        try:
            room = await self._engine.create(plan.version, plan.create(), plan.events, entry)
        except AuthError as error:
            raise InvalidRoomState(f"The room cannot be made so: {error}") from error
        if room is None:
            raise RoomInUse(f"Room alias {plan.alias} is taken")
        return room.room_id

    async def _invite_elsewhere(self, actor: Actor, room_id: str, wishes: RoomWishes) -> None:
        """Invite those whose servers must sign it, all at once.

        The room is there: a server that is down does not undo it, and a client told of a failure would make another.
        """
        extra = {"is_direct": True} if wishes.is_direct else None
        users = [user_id for user_id in dict.fromkeys(wishes.invite) if self._inviting.is_elsewhere(user_id)]
        invites: list[Deferred[object]] = [
            Deferred.fromCoroutine(self._inviting.invite(actor, room_id, user_id, extra=extra))
            for user_id in users
        ]
        outcomes: list[tuple[bool, object]] = list(await DeferredList(invites, consumeErrors=True))
        for user_id, (_, result) in zip(users, outcomes, strict=True):
            if isinstance(result, Failure):
                logger.warning("%s was not invited to the new room %s: %s", user_id, room_id, result.value)

    def _version(self, wishes: RoomWishes) -> RoomVersion:
        if wishes.version is None:
            return self._default_version
        return supported_version(wishes.version)

    async def _check_invites(self, actor: Actor, wishes: RoomWishes) -> None:
        if len(wishes.invite) > MAX_INVITES:
            raise InvalidParam(f"At most {MAX_INVITES} users can be invited with the creation of a room")
        if actor.user_id in wishes.invite:
            raise InvalidParam("You cannot invite yourself")
        if wishes.invite:
            await self._inviting.check_invitees(actor.user_id, wishes.invite)

    def _alias(self, wishes: RoomWishes) -> str | None:
        localpart = wishes.alias_localpart
        if localpart is None:
            return None
        alias = f"#{localpart}:{self._engine.server_name}"
        if not localpart or ":" in localpart or localpart.startswith("#") or any(map(str.isspace, localpart)):
            raise InvalidParam("room_alias_name must be the part of an alias between # and the colon")
        try:
            check_room_alias(alias)
        except IdentifierError as error:
            raise InvalidParam(str(error)) from error
        return alias


def is_encrypted(wishes: RoomWishes, by_default: EncryptedByDefault) -> bool:
    """Whether the room is to be encrypted if its creator does not say otherwise; in a space nobody talks."""
    if by_default == "off" or not wishes.takes_encryption or wishes.is_space:
        return False
    return by_default == "all" or wishes.effective_preset != "public_chat"


def supported_version(identifier: str) -> RoomVersion:
    """The room version of that name. Raises UnsupportedRoomVersion."""
    try:
        return room_version(identifier)
    except UnsupportedRoomVersionError as error:
        raise UnsupportedRoomVersion(
            f"This server does not support room version {identifier[:32]}"
        ) from error


def check_initial_state(wishes: RoomWishes, alias: str | None) -> None:
    """Raise InvalidRoomState for a create event or members, BadAlias for aliases that are not the new room's."""
    for state in wishes.initial_state:
        if state.type in (CREATE, MEMBER):
            raise InvalidRoomState(f"initial_state cannot hold {state.type}")
        if state.type == CANONICAL and state.state_key == "":
            for other in canonical_aliases(state.content):
                if other != alias:
                    raise BadAlias(f"The alias '{other}' does not point to this room.")
