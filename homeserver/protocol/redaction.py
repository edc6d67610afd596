# SPDX-License-Identifier: Apache-2.0
"""The redaction algorithm: what is left of a PDU once everything non-essential is stripped.

Owns the tables of surviving keys for every room version (rooms/fragments ``v1-redactions`` …
``v11-redactions``, version 8 in rooms/v8). Reference hashes and signatures cover exactly this form. Does
not own who may redact.
"""

from typing import Any, Final

from homeserver.protocol.room_versions import RedactionRules, RoomVersion

_TOP_LEVEL_V11: Final = frozenset(
    {
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    }
)
_TOP_LEVEL_V1: Final = _TOP_LEVEL_V11 | {"prev_state", "origin", "membership"}

_ContentRules = dict[str, tuple[str, ...]]

_CONTENT_V6: Final[_ContentRules] = {
    "m.room.member": ("membership",),
    "m.room.create": ("creator",),
    "m.room.join_rules": ("join_rule",),
    "m.room.power_levels": (
        "ban",
        "events",
        "events_default",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
    ),
    "m.room.history_visibility": ("history_visibility",),
}
_CONTENT_V1: Final[_ContentRules] = _CONTENT_V6 | {"m.room.aliases": ("aliases",)}
_CONTENT_V8: Final[_ContentRules] = _CONTENT_V6 | {"m.room.join_rules": ("join_rule", "allow")}
_CONTENT_V9: Final[_ContentRules] = _CONTENT_V8 | {
    "m.room.member": ("membership", "join_authorised_via_users_server")
}
_CONTENT_V11: Final[_ContentRules] = _CONTENT_V9 | {
    "m.room.power_levels": (*_CONTENT_V9["m.room.power_levels"], "invite"),
    "m.room.redaction": ("redacts",),
}

_RULES: Final[dict[RedactionRules, tuple[frozenset[str], _ContentRules]]] = {
    RedactionRules.V1: (_TOP_LEVEL_V1, _CONTENT_V1),
    RedactionRules.V6: (_TOP_LEVEL_V1, _CONTENT_V6),
    RedactionRules.V8: (_TOP_LEVEL_V1, _CONTENT_V8),
    RedactionRules.V9: (_TOP_LEVEL_V1, _CONTENT_V9),
    RedactionRules.V11: (_TOP_LEVEL_V11, _CONTENT_V11),
}


def redact(pdu: dict[str, Any], room_version: RoomVersion) -> dict[str, Any]:
    """A new dict of the parts of ``pdu`` that survive redaction; values are shared, nothing is changed.

    ``pdu`` needs a string ``type`` and an object ``content``. ``unsigned`` does not survive.
    """
    top_level, content_rules = _RULES[room_version.redaction_rules]
    redacted = {key: value for key, value in pdu.items() if key in top_level}
    redacted["content"] = _redact_content(
        pdu["type"], pdu["content"], content_rules, room_version.redaction_rules is RedactionRules.V11
    )
    return redacted


def _redact_content(
    event_type: str, content: dict[str, Any], content_rules: _ContentRules, since_v11: bool
) -> dict[str, Any]:
    if since_v11 and event_type == "m.room.create":
        return content
    kept = {key: content[key] for key in content_rules.get(event_type, ()) if key in content}
    if since_v11 and event_type == "m.room.member":
        invite = content.get("third_party_invite")
        if type(invite) is dict:
            # Without `signed` an empty object stays. The text does not say, implementations differ, and the
            # event id depends on it: this follows the server that most rooms' events come from.
            kept["third_party_invite"] = {"signed": invite["signed"]} if "signed" in invite else {}
    return kept
