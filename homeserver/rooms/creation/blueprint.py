# SPDX-License-Identifier: Apache-2.0
"""The events of a new room, in the order of `POST /createRoom` in the client-server API. Pure.

Owns presets, default power levels and what each option turns into; not who may ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from homeserver.errors import InvalidParam, InvalidRoomState
from homeserver.protocol.call_members import CALL_MEMBER_TYPES
from homeserver.protocol.identifiers import domain_of, is_valid_user_id
from homeserver.protocol.power_levels import parse_level
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.creation.wishes import InitialState, RoomWishes
from homeserver.rooms.engine import Draft, RoomHead
from homeserver.rooms.membership.member_content import member_content
from homeserver.rooms.membership.writing import MEMBER
from homeserver.rooms.stripped_state import stripped_state

CREATE = "m.room.create"
POWER_LEVELS = "m.room.power_levels"
ENCRYPTION = "m.room.encryption"
TOMBSTONE_LEVEL = 150
"""In versions whose creators are above all levels: nobody else may end the room, unless the levels say so."""

_PRESETS: Mapping[str, tuple[str, str]] = {
    "private_chat": ("invite", "can_join"),
    "trusted_private_chat": ("invite", "can_join"),
    "public_chat": ("public", "forbidden"),
}
"""Preset → join rule, guest access; the history visibility is `shared` in all."""

_EVENT_LEVELS: Mapping[str, int] = {
    "m.room.name": 50,
    "m.room.avatar": 50,
    "m.room.canonical_alias": 50,
    "m.room.power_levels": 100,
    "m.room.history_visibility": 100,
    "m.room.server_acl": 100,
    "m.room.encryption": 100,
}

_CALL_LEVELS: Mapping[str, int] = dict.fromkeys(CALL_MEMBER_TYPES, 0)


class Blueprint(Struct, frozen=True):
    """A room to be made: the wishes and what was found out about them."""

    wishes: RoomWishes
    version: RoomVersion
    creator: str
    alias: str | None
    profiles: Mapping[str, Mapping[str, str]]
    """Of the creator and the invited, as member events show them."""
    encrypted: bool = False
    """Whether the room is encrypted unless `initial_state` says otherwise."""
    group_calls: bool = False
    """Whether members of private rooms may enter group calls, which they do by a state event of their own."""

    def create(self) -> Draft:
        """The create event. Raises InvalidParam for additional creators that are no users."""
        wishes, version = self.wishes, self.version
        content = {key: value for key, value in wishes.creation_content.items() if key != "creator"}
        content["room_version"] = str(version)
        if version.create_has_creator:
            content["creator"] = self.creator
        if version.privileged_creators:
            named = checked_creators(content.pop("additional_creators", []))
            if wishes.effective_preset == "trusted_private_chat":
                named = [*named, *wishes.invite]
            others = [user for user in dict.fromkeys(named) if user != self.creator]
            if others:
                content["additional_creators"] = others
        return Draft(CREATE, self.creator, content, "")

    def events(self, head: RoomHead) -> Iterator[Draft]:
        """All that follows. `head` is the room as drafted so far. Raises InvalidRoomState."""
        wishes, creator = self.wishes, self.creator
        yield Draft(MEMBER, creator, member_content("join", profile=self.profiles.get(creator)), creator)
        yield self._state(POWER_LEVELS, self._power_levels(head))
        if self.alias is not None:
            yield self._state("m.room.canonical_alias", {"alias": self.alias})
        given = {(state.type, state.state_key) for state in wishes.initial_state}
        for event_type, content in self._preset():
            if (event_type, "") not in given:
                yield self._state(event_type, content)
        for state in wishes.initial_state:
            if not self._is_overridden(state):
                yield Draft(state.type, creator, state.content, state.state_key)
        if wishes.name is not None:
            yield self._state("m.room.name", {"name": wishes.name})
        if wishes.topic is not None:
            yield self._state("m.room.topic", topic_content(wishes.topic))
        yield from self._invites(head)

    def _state(self, event_type: str, content: Mapping[str, Any]) -> Draft:
        return Draft(event_type, self.creator, content, "")

    def _preset(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        join_rule, guest_access = _PRESETS[self.wishes.effective_preset]
        yield "m.room.join_rules", {"join_rule": join_rule}
        yield "m.room.history_visibility", {"history_visibility": "shared"}
        yield "m.room.guest_access", {"guest_access": guest_access}
        if self.encrypted:
            yield ENCRYPTION, {"algorithm": "m.megolm.v1.aes-sha2"}

    def _is_overridden(self, state: InitialState) -> bool:
        """Whether `name` or `topic` is given, which win over the initial state, or encryption is declined."""
        if state.state_key != "":
            return False
        if state.type == ENCRYPTION and self.encrypted:
            # An event of this type, whatever it says, is taken for encryption by clients; so there is none.
            return not state.content
        return (state.type == "m.room.name" and self.wishes.name is not None) or (
            state.type == "m.room.topic" and self.wishes.topic is not None
        )

    def _power_levels(self, head: RoomHead) -> Mapping[str, Any]:
        wishes, privileged = self.wishes, self.version.privileged_creators
        users: dict[str, int] = {}
        if not privileged:
            users[self.creator] = 100
            if wishes.effective_preset == "trusted_private_chat":
                users.update(dict.fromkeys(wishes.invite, 100))
        content: dict[str, Any] = {
            "users": users,
            "users_default": 0,
            "events": {
                **_EVENT_LEVELS,
                "m.room.tombstone": TOMBSTONE_LEVEL if privileged else 100,
                **self._call_levels(),
            },
            "events_default": 0,
            "state_default": 50,
            "ban": 50,
            "kick": 50,
            "redact": 50,
            "invite": 50 if wishes.effective_preset == "public_chat" else 0,
            **wishes.power_levels,
        }
        if privileged:
            given = content["users"]
            if isinstance(given, Mapping) and any(user in head.power_levels.creators for user in given):
                raise InvalidRoomState("The power of a room's creators cannot be set in users")
            protect_tombstone(self.version, content)
        return content

    def _call_levels(self) -> Mapping[str, int]:
        # In public rooms it is left to who makes them: strangers could set as many such events as they like.
        if self.group_calls and self.wishes.effective_preset != "public_chat":
            return _CALL_LEVELS
        return {}

    def _invites(self, head: RoomHead) -> Iterator[Draft]:
        inviter = head.fresh_members[self.creator]
        extra = {"is_direct": True} if self.wishes.is_direct else None
        for user_id in dict.fromkeys(self.wishes.invite):
            if domain_of(user_id) != domain_of(self.creator):
                continue  # their server signs the invite first, and for that the room must be there
            yield Draft(
                MEMBER,
                self.creator,
                member_content("invite", profile=self.profiles.get(user_id), extra=extra),
                user_id,
                stripped_state=stripped_state(head, (inviter,)),
            )


def topic_content(topic: str) -> dict[str, Any]:
    """A plain text topic, also as the content block of MSC3765."""
    return {"topic": topic, "m.topic": {"m.text": [{"body": topic, "mimetype": "text/plain"}]}}


def protect_tombstone(version: RoomVersion, content: dict[str, Any]) -> None:
    """Where a content has no level for `m.room.tombstone`, set one above `state_default`."""
    events = content.get("events", {})
    if isinstance(events, Mapping) and "m.room.tombstone" not in events:
        state_default = parse_level(version, content.get("state_default", 50)) or 0
        level = max(TOMBSTONE_LEVEL, state_default + 1)
        content["events"] = {**events, "m.room.tombstone": level}


def checked_creators(value: object) -> list[str]:
    """`additional_creators` as a list of user ids. Raises InvalidParam."""
    if not isinstance(value, list) or not all(
        isinstance(user, str) and is_valid_user_id(user) for user in value
    ):
        raise InvalidParam("additional_creators must be a list of user ids")
    return value
