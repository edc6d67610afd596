# SPDX-License-Identifier: Apache-2.0
"""Room aliases of this server: making, finding, removing them, and the canonical ones a room may claim.

Client-server API, "Room aliases" and `m.room.canonical_alias`. Aliases of other servers are only
looked up, and only where a room claims them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.python.failure import Failure

from homeserver.errors import BadAlias, Forbidden, InvalidParam, MatrixError, NotFound, Unknown
from homeserver.protocol.errors import IdentifierError, ProtocolError
from homeserver.protocol.identifiers import check_room_alias, domain_of
from homeserver.rooms.access import RoomGate
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.remote import RemoteRooms
from homeserver.stream import Committer
from storage.room_aliases import RoomAliasStore

CANONICAL = "m.room.canonical_alias"

MOST_FOREIGN = 10
"""Aliases of other servers that a room may come to claim by one event: each is a request."""


class AliasTaken(Unknown):
    """The alias exists. (M_UNKNOWN; the endpoint answers 409.)"""


class Aliases:
    """The aliases of this server's domain."""

    def __init__(
        self,
        *,
        store: RoomAliasStore,
        engine: RoomEngine,
        gate: RoomGate,
        committer: Committer,
        remote: RemoteRooms,
    ) -> None:
        self._store = store
        self._engine = engine
        self._gate = gate
        self._committer = committer
        self._remote = remote

    async def resolve(self, alias: str) -> str:
        """The id of the room the alias points to. Raises InvalidParam, NotFound."""
        check_alias(alias)
        found = (await self._store.get((alias,))).get(alias)
        if found is None:
            raise NotFound(f"Room alias {alias} not found.")
        return found.room_id

    async def create(self, actor: Actor, alias: str, room_id: str) -> None:
        """Point a new alias of this server to a room the user is in.

        Raises InvalidParam, Forbidden, NotFound for an unknown room, AliasTaken.
        """
        check_not_suspended(actor)
        check_alias(alias)
        if domain_of(alias) != self._engine.server_name:
            raise InvalidParam("Only aliases of this server can be made here")
        room = await self._engine.cache.get(room_id)
        if room is None:
            raise NotFound(f"Room {room_id} is not known to this server")
        if not room.head.is_joined(actor.user_id) and not actor.is_admin:
            raise Forbidden(f"User {actor.user_id} not in room {room_id}")
        if alias in await self._store.get((alias,)):
            raise AliasTaken(f"Room alias {alias} already exists.")
        await self._committer.write(
            "room_alias", [{"alias": alias, "room_id": room_id, "creator": actor.user_id}]
        )
        made = (await self._store.get((alias,))).get(alias)
        if made is None or (made.room_id, made.creator) != (room_id, actor.user_id):
            raise AliasTaken(f"Room alias {alias} already exists.")

    async def remove(self, actor: Actor, alias: str) -> None:
        """Remove an alias, and its mention in the room if the user may change that. Raises NotFound, Forbidden.

        Its maker may, whoever may set the room's canonical alias, and server admins.
        """
        check_not_suspended(actor)
        check_alias(alias)
        found = (await self._store.get((alias,))).get(alias)
        if found is None:
            raise NotFound(f"Room alias {alias} not found.")
        room = await self._engine.cache.get(found.room_id)
        moderator = room is not None and may_set_canonical(room.head, actor.user_id)
        if found.creator != actor.user_id and not moderator and not actor.is_admin:
            raise Forbidden("You don't have permission to remove this alias")
        await self._committer.write("room_alias_removal", [{"alias": alias, "room_id": found.room_id}])
        if room is not None:
            await self._drop_mention(actor.user_id, found.room_id, alias)

    async def of_room(self, actor: Actor, room_id: str) -> list[str]:
        """The room's local aliases, for its members, and for all if it is world-readable. Raises Forbidden."""
        access = await self._gate.access_room(actor.user_id, room_id)
        if access.until is not None:
            raise Forbidden(f"User {actor.user_id} not in room {room_id}")
        return [entry.alias for entry in await self._store.of_room(room_id)]

    async def check_canonical(self, room_id: str, content: Mapping[str, Any]) -> None:
        """Raise unless an `m.room.canonical_alias` content is well formed and what it adds points to the room.

        Raises InvalidParam, BadAlias. An alias the room names already is not asked about: it may have gone since.
        """
        named = canonical_aliases(content)
        room = await self._engine.cache.get(room_id)
        known = set() if room is None else set(_mentioned(room.head))
        added = [alias for alias in named if alias not in known]
        if not added:
            return
        foreign = [alias for alias in added if domain_of(alias) != self._engine.server_name]
        if len(foreign) > MOST_FOREIGN:
            raise BadAlias(f"At most {MOST_FOREIGN} aliases of other servers can be added at once.")
        found = await self._store.get(added)
        for alias in added:
            if alias not in foreign and (alias not in found or found[alias].room_id != room_id):
                raise BadAlias(f"The alias '{alias}' does not point to this room.")
        await gatherResults(
            [Deferred.fromCoroutine(self._check_foreign(alias, room_id)) for alias in foreign],
            consumeErrors=True,
        ).addErrback(_first_of)

    async def _check_foreign(self, alias: str, room_id: str) -> None:
        """Ask the server of an alias whether it points to the room. Raises BadAlias, also if it cannot be asked."""
        try:
            found = (await self._remote.resolve_alias(alias)).room_id
        except MatrixError as error:
            raise BadAlias(f"The alias '{alias}' could not be checked: {error.message}") from error
        if found != room_id:
            raise BadAlias(f"The alias '{alias}' does not point to this room.")

    async def _drop_mention(self, user_id: str, room_id: str, alias: str) -> None:
        """Take a removed alias out of the canonical ones; a user without the power leaves it there."""

        def plan(head: RoomHead) -> Sequence[Draft]:
            content = dict(head.content(CANONICAL))
            if alias not in _mentioned(head) or not may_set_canonical(head, user_id):
                return ()
            if content.get("alias") == alias:
                del content["alias"]
            alternatives = content.get("alt_aliases")
            if isinstance(alternatives, list) and alias in alternatives:
                content["alt_aliases"] = [other for other in alternatives if other != alias]
            return (Draft(CANONICAL, user_id, content, ""),)

        try:
            await self._engine.write(room_id, plan, users=(user_id,))
        except ProtocolError:  # the alias is gone, and that is what was asked for
            return


def _first_of(failure: Failure) -> Failure:
    """Of several lookups the failure that came first, itself."""
    error = failure.value
    return error.subFailure if isinstance(error, FirstError) else failure


def check_alias(alias: str) -> None:
    """Raise InvalidParam unless it is a room alias."""
    try:
        check_room_alias(alias)
    except IdentifierError as error:
        raise InvalidParam("Room alias invalid") from error


def canonical_aliases(content: Mapping[str, Any]) -> list[str]:
    """Every alias a content names. Raises InvalidParam if it is malformed."""
    alias, alternatives = content.get("alias"), content.get("alt_aliases", [])
    if alias is not None and not isinstance(alias, str):
        raise InvalidParam("alias must be a string")
    if not isinstance(alternatives, list) or not all(isinstance(other, str) for other in alternatives):
        raise InvalidParam("alt_aliases must be a list of strings")
    named = [*([alias] if alias else []), *alternatives]
    for name in named:
        check_alias(name)
    return named


def may_set_canonical(head: RoomHead, user_id: str) -> bool:
    """Whether the user is in the room and may set its canonical alias."""
    return head.is_joined(user_id) and head.power_levels.may_send(user_id, CANONICAL, is_state=True)


def _mentioned(head: RoomHead) -> list[str]:
    content = head.content(CANONICAL)
    alternatives = content.get("alt_aliases")
    named = [content.get("alias"), *(alternatives if isinstance(alternatives, list) else ())]
    return [alias for alias in named if isinstance(alias, str)]
