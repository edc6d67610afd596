# SPDX-License-Identifier: Apache-2.0
"""The rules that every user has (client-server API v1.19, "Predefined Rules"). Owns nothing but the list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.protocol.push_rules.conditions import OWN_USER_ID
from homeserver.protocol.push_rules.rules import Action, Kind, PushRule

MASTER: Final = ".m.rule.master"
"""The one default rule that goes before the user's own."""

_HIGHLIGHT: Final[Action] = {"set_tweak": "highlight"}
_SOUND: Final[Action] = {"set_tweak": "sound", "value": "default"}
_RING: Final[Action] = {"set_tweak": "sound", "value": "ring"}


def _rule(
    rule_id: str, conditions: tuple[Mapping[str, Any], ...], *actions: Action, enabled: bool = True
) -> PushRule:
    return PushRule(rule_id, actions, enabled, default=True, conditions=conditions)


def _match(key: str, pattern: str) -> Mapping[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


_TWO_MEMBERS: Final = {"kind": "room_member_count", "is": "2"}

DEFAULT_RULES: Final[Mapping[Kind, tuple[PushRule, ...]]] = {
    Kind.OVERRIDE: (
        _rule(MASTER, (), enabled=False),
        _rule(".m.rule.suppress_notices", (_match("content.msgtype", "m.notice"),)),
        _rule(
            ".m.rule.invite_for_me",
            (
                _match("type", "m.room.member"),
                _match("content.membership", "invite"),
                _match("state_key", OWN_USER_ID),
            ),
            "notify",
            _SOUND,
        ),
        _rule(".m.rule.member_event", (_match("type", "m.room.member"),)),
        _rule(
            ".m.rule.is_user_mention",
            (
                {
                    "kind": "event_property_contains",
                    "key": "content.m\\.mentions.user_ids",
                    "value": OWN_USER_ID,
                },
            ),
            "notify",
            _SOUND,
            _HIGHLIGHT,
        ),
        _rule(
            ".m.rule.is_room_mention",
            (
                {"kind": "event_property_is", "key": "content.m\\.mentions.room", "value": True},
                {"kind": "sender_notification_permission", "key": "room"},
            ),
            "notify",
            _HIGHLIGHT,
        ),
        _rule(
            ".m.rule.tombstone",
            (_match("type", "m.room.tombstone"), _match("state_key", "")),
            "notify",
            _HIGHLIGHT,
        ),
        _rule(".m.rule.reaction", (_match("type", "m.reaction"),)),
        _rule(".m.rule.room.server_acl", (_match("type", "m.room.server_acl"), _match("state_key", ""))),
        _rule(
            ".m.rule.suppress_edits",
            ({"kind": "event_property_is", "key": "content.m\\.relates_to.rel_type", "value": "m.replace"},),
        ),
    ),
    Kind.CONTENT: (),
    Kind.ROOM: (),
    Kind.SENDER: (),
    Kind.UNDERRIDE: (
        _rule(".m.rule.call", (_match("type", "m.call.invite"),), "notify", _RING),
        _rule(
            ".m.rule.encrypted_room_one_to_one",
            (_TWO_MEMBERS, _match("type", "m.room.encrypted")),
            "notify",
            _SOUND,
        ),
        _rule(".m.rule.room_one_to_one", (_TWO_MEMBERS, _match("type", "m.room.message")), "notify", _SOUND),
        _rule(".m.rule.message", (_match("type", "m.room.message"),), "notify"),
        _rule(".m.rule.encrypted", (_match("type", "m.room.encrypted"),), "notify"),
    ),
}
"""By kind, the more important first."""
