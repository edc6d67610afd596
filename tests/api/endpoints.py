# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (a table: an endpoint a line)
"""The client-server API as a table: what must be there, who may call it, and a request that makes sense.

Distilled from the OpenAPI description of the specification and its guest access module; it repeats nothing the server says
of itself, so that an endpoint lost on the way to the router is missed here. Owns no checks.

Placeholders of paths, queries and bodies (`$bob`, `{roomId}`) are filled from `tests.api.world.World`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Access = Literal["anyone", "guests", "users", "admins"]
"""Who may call: with no token at all, guests too, users only, administrators only."""

PREFIXES = tuple(f"/_matrix/client/{version}" for version in ("r0", "v3", "v1", "unstable"))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`template` stands below every prefix, or is the whole path where it begins with `/_matrix` or `/.well-known`."""

    method: str
    template: str
    access: Access
    body: Any = None
    """A body that makes sense; None where there is none."""
    query: dict[str, str] = field(default_factory=dict)
    """Values that make sense, for each parameter it knows."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every template it answers at."""
        if self.template.startswith(("/_matrix", "/.well-known", "/_synapse")):
            return (self.template,)
        return tuple(prefix + self.template for prefix in PREFIXES)

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


def _anyone(method: str, template: str, body: Any = None, **query: str) -> Endpoint:
    return Endpoint(method, template, "anyone", body, query)


def _guests(method: str, template: str, body: Any = None, **query: str) -> Endpoint:
    return Endpoint(method, template, "guests", body, query)


def _users(method: str, template: str, body: Any = None, **query: str) -> Endpoint:
    return Endpoint(method, template, "users", body, query)


def _admins(method: str, template: str, body: Any = None, **query: str) -> Endpoint:
    return Endpoint(method, template, "admins", body, query)


_PASSWORD = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "$me"}, "password": "no"}
_FILTER = (
    '{"room":{"timeline":{"limit":5,"lazy_load_members":true,"types":["m.room.*"]}},"event_fields":["type"]}'
)
_EVENT_FILTER = '{"limit":3,"types":["m.*"],"not_senders":["@nobody:localhost"],"lazy_load_members":true,"contains_url":false}'
_PUSH_RULE = {
    "actions": ["notify", {"set_tweak": "highlight", "value": True}],
    "conditions": [{"kind": "event_match", "key": "content.body", "pattern": "ca*e"}],
}
_CREATE = {
    "preset": "private_chat",
    "visibility": "private",
    "name": "A room",
    "topic": "made up",
    "room_version": "11",
    "room_alias_name": "made-up",
    "is_direct": False,
    "invite": ["$bob"],
    "creation_content": {"m.federate": False, "type": "m.space"},
    "initial_state": [{"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}],
    "power_level_content_override": {"users": {"$me": 100}, "events": {"m.room.name": 50}, "ban": 60},
}  # fmt: skip
_POWER = {"users": {"$me": 100}, "users_default": 0, "events": {"m.room.name": 50}, "state_default": 50, "notifications": {"room": 20}}  # fmt: skip

_ACCOUNTS = (
    _anyone("GET", "/_matrix/client/versions"),
    _anyone("GET", "/.well-known/matrix/client"),
    _anyone("GET", "/login"),
    _anyone("POST", "/login", {**_PASSWORD, "device_id": "FUZZ", "initial_device_display_name": "f"}),
    _anyone("POST", "/register", {"username": "made.up", "password": "a made up one", "auth": {"type": "m.login.x", "session": "none"}, "inhibit_login": True}, kind="user"),
    _anyone("GET", "/register/available", username="free.name"),
    _anyone("GET", "/register/m.login.registration_token/validity", token="none"),
    _anyone("POST", "/register/email/requestToken", {"client_secret": "s", "email": "a@example.org", "send_attempt": 1}),
    _anyone("POST", "/register/msisdn/requestToken", {"client_secret": "s", "country": "GB", "phone_number": "1", "send_attempt": 1}),
    _anyone("POST", "/refresh", {"refresh_token": "none"}),
    _anyone("GET", "/_synapse/admin/v1/register"),
    _anyone("POST", "/_synapse/admin/v1/register", {"nonce": "none", "username": "forged", "password": "p", "admin": True, "mac": "00"}),
    _users("GET", "/capabilities"),
    _users("POST", "/login/get_token", {"auth": _PASSWORD}),
    _users("POST", "/logout"),
    _users("POST", "/logout/all"),
    _guests("GET", "/account/whoami"),
    _users("POST", "/account/password", {"new_password": "a better one", "logout_devices": True, "auth": _PASSWORD}),
    _users("POST", "/account/deactivate", {"erase": False, "auth": _PASSWORD}),
    _users("GET", "/account/3pid"),
    _users("POST", "/account/3pid/add", {"client_secret": "s", "sid": "1"}),
    _users("POST", "/account/3pid/delete", {"address": "a@example.org", "medium": "email"}),
    _guests("GET", "/devices"),
    _guests("GET", "/devices/{deviceId}"),
    _guests("PUT", "/devices/{deviceId}", {"display_name": "Phone"}),
    _users("DELETE", "/devices/{deviceId}", {"auth": _PASSWORD}),
    _users("POST", "/delete_devices", {"devices": ["$device"], "auth": _PASSWORD}),
    _users("POST", "/user/{userId}/openid/request_token", {}),
    _users("POST", "/user/{userId}/filter", {"room": {"timeline": {"limit": 10, "not_types": ["x"]}, "state": {"lazy_load_members": True}}, "event_format": "client", "presence": {"types": []}}),
    _users("GET", "/user/{userId}/filter/{filterId}"),
    _admins("GET", "/admin/whois/{otherUserId}"),
    _admins("GET", "/admin/lock/{otherUserId}"),
    _admins("PUT", "/admin/lock/{otherUserId}", {"locked": False}),
    _admins("GET", "/admin/suspend/{otherUserId}"),
    _admins("PUT", "/admin/suspend/{otherUserId}", {"suspended": False}),
)  # fmt: skip

_SYNC = (
    _guests("GET", "/sync", since="$since", filter=_FILTER, full_state="false", set_presence="offline", timeout="0", use_state_after="true"),
    _guests("GET", "/events", **{"from": "$token", "room_id": "$room", "timeout": "0"}),
    _users("GET", "/events/{eventId}"),
    _users("GET", "/initialSync", limit="3", archived="true"),
    _guests("GET", "/rooms/{roomId}/initialSync", limit="3"),
)  # fmt: skip

_ROOMS = (
    _users("POST", "/createRoom", _CREATE),
    # The specification lets guests join by id only; an alias is but the name of the same door.
    _guests("POST", "/join/{roomIdOrAlias}", {"reason": "why not"}, via="localhost"),
    _guests("POST", "/rooms/{roomId}/join", {"reason": "why not"}),
    _users("POST", "/knock/{roomIdOrAlias}", {"reason": "why not"}, via="localhost"),
    _guests("POST", "/rooms/{roomId}/leave", {"reason": "bye"}),
    _users("POST", "/rooms/{roomId}/forget"),
    _users("GET", "/joined_rooms"),
    _users("POST", "/rooms/{roomId}/invite", {"user_id": "$carol", "reason": "come"}),
    _users("POST", "/rooms/{roomId}/kick", {"user_id": "$carol", "reason": "go"}),
    _users("POST", "/rooms/{roomId}/ban", {"user_id": "$carol", "reason": "go"}),
    _users("POST", "/rooms/{roomId}/unban", {"user_id": "$carol"}),
    _guests("GET", "/rooms/{roomId}/members", membership="join", not_membership="ban", at="$token"),
    _users("GET", "/rooms/{roomId}/joined_members"),
    _guests("GET", "/rooms/{roomId}/state"),
    _guests("GET", "/rooms/{roomId}/state/m.room.power_levels", format="event"),
    _guests("GET", "/rooms/{roomId}/state/{eventType}/{stateKey}", format="content"),
    _guests("PUT", "/rooms/{roomId}/state/{eventType}/{stateKey}", {"name": "named", "more": {"a": [1, None, True]}}),
    _guests("PUT", "/rooms/{roomId}/state/m.room.power_levels", _POWER),
    _guests("PUT", "/rooms/{roomId}/state/m.room.join_rules", {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": "$room"}]}),
    _guests("PUT", "/rooms/{roomId}/state/m.room.member/{userId}", {"membership": "join", "displayname": "Me", "avatar_url": "mxc://localhost/a"}),
    _guests("PUT", "/rooms/{roomId}/state/m.room.canonical_alias", {"alias": "$alias", "alt_aliases": ["$alias"]}),
    _guests("PUT", "/rooms/{roomId}/send/{eventType}/{txnId}", {"msgtype": "m.text", "body": "hello", "m.relates_to": {"rel_type": "m.thread", "event_id": "$event"}, "m.mentions": {"user_ids": ["$bob"]}}),
    _users("PUT", "/rooms/{roomId}/redact/{eventId}/{txnId}", {"reason": "spam"}),
    _guests("GET", "/rooms/{roomId}/messages", **{"dir": "b", "from": "$token", "to": "$token", "limit": "4", "filter": _EVENT_FILTER}),
    _guests("GET", "/rooms/{roomId}/event/{eventId}"),
    _guests("GET", "/rooms/{roomId}/context/{eventId}", limit="4", filter=_EVENT_FILTER),
    _users("GET", "/rooms/{roomId}/timestamp_to_event", ts="1700000000000", dir="f"),
    _users("GET", "/rooms/{roomId}/relations/{eventId}", **{"from": "$token", "to": "$token", "dir": "b", "limit": "3", "recurse": "true"}),
    _users("GET", "/rooms/{roomId}/relations/{eventId}/{relType}", limit="3"),
    _users("GET", "/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}", limit="3"),
    _users("GET", "/rooms/{roomId}/threads", **{"from": "$token", "include": "participated", "limit": "3"}),
    _users("GET", "/rooms/{roomId}/aliases"),
    _users("GET", "/rooms/{roomId}/hierarchy", limit="5", max_depth="2", suggested_only="false"),
    _users("POST", "/rooms/{roomId}/upgrade", {"new_version": "12", "additional_creators": ["$bob"]}),
    _users("POST", "/rooms/{roomId}/report", {"reason": "bad"}),
    _users("POST", "/rooms/{roomId}/report/{eventId}", {"reason": "bad", "score": -50}),
    _users("POST", "/users/{otherUserId}/report", {"reason": "bad"}),
    _anyone("GET", "/room_summary/{roomIdOrAlias}", via="localhost"),
    _anyone("GET", "/directory/room/{roomAlias}"),
    _users("PUT", "/directory/room/{roomAlias}", {"room_id": "$room"}),
    _users("DELETE", "/directory/room/{roomAlias}"),
    _anyone("GET", "/directory/list/room/{roomId}"),
    _users("PUT", "/directory/list/room/{roomId}", {"visibility": "private"}),
    _anyone("GET", "/publicRooms", limit="3", since="none", server="localhost"),
    # Guests may see what anyone may see without a token.
    _guests("POST", "/publicRooms", {"filter": {"generic_search_term": "a", "room_types": [None, "m.space"]}, "limit": 3}, server="localhost"),
)  # fmt: skip

_BESIDE = (
    _users("POST", "/rooms/{roomId}/receipt/m.read/{eventId}", {"thread_id": "main"}),
    _users("POST", "/rooms/{roomId}/receipt/m.read.private/{eventId}", {}),
    _users("POST", "/rooms/{roomId}/receipt/{receiptType}/{eventId}", {"thread_id": "$event"}),
    _users("POST", "/rooms/{roomId}/read_markers", {"m.fully_read": "$event", "m.read": "$event", "m.read.private": "$event"}),
    _users("PUT", "/rooms/{roomId}/typing/{userId}", {"typing": True, "timeout": 1000}),
    _users("GET", "/presence/{userId}/status"),
    _users("PUT", "/presence/{userId}/status", {"presence": "online", "status_msg": "here"}),
    _anyone("GET", "/profile/{userId}"),
    _anyone("GET", "/profile/{userId}/{keyName}"),
    _guests("PUT", "/profile/{userId}/displayname", {"displayname": "Me"}),
    _guests("DELETE", "/profile/{userId}/displayname"),
    _users("PUT", "/profile/{userId}/avatar_url", {"avatar_url": "mxc://localhost/a"}),
    _users("PUT", "/profile/{userId}/{keyName}", {"org.example.field": {"nested": ["value"]}}),
    _users("DELETE", "/profile/{userId}/{keyName}"),
    _users("GET", "/user/{userId}/account_data/{type}"),
    _users("PUT", "/user/{userId}/account_data/{type}", {"any": {"thing": 1}}),
    _users("PUT", "/user/{userId}/account_data/m.ignored_user_list", {"ignored_users": {"$carol": {}}}),
    _users("GET", "/user/{userId}/rooms/{roomId}/account_data/{type}"),
    _users("PUT", "/user/{userId}/rooms/{roomId}/account_data/{type}", {"any": "thing"}),
    _users("GET", "/user/{userId}/rooms/{roomId}/tags"),
    _users("PUT", "/user/{userId}/rooms/{roomId}/tags/{tag}", {"order": 0.25}),
    _users("DELETE", "/user/{userId}/rooms/{roomId}/tags/{tag}"),
    _users("POST", "/user_directory/search", {"search_term": "a", "limit": 3}),
    _users("GET", "/mutual_rooms", user_id="$bob"),
    _users("GET", "/pushrules/"),
    _users("GET", "/pushrules/global/"),
    _users("GET", "/pushrules/global/override/{ruleId}"),
    _users("PUT", "/pushrules/global/override/{ruleId}", _PUSH_RULE, before=".m.rule.master", after="none"),
    _users("PUT", "/pushrules/global/content/{ruleId}", {"actions": ["notify"], "pattern": "c*ke"}),
    _users("DELETE", "/pushrules/global/override/{ruleId}"),
    _users("GET", "/pushrules/global/override/{ruleId}/enabled"),
    _users("PUT", "/pushrules/global/override/.m.rule.master/enabled", {"enabled": False}),
    _users("GET", "/pushrules/global/override/{ruleId}/actions"),
    _users("PUT", "/pushrules/global/underride/.m.rule.message/actions", {"actions": ["notify"]}),
)  # fmt: skip

_CROSS_SIGNING_KEY = {"user_id": "$me", "usage": ["master"], "keys": {"ed25519:made+up": "made+up"}}

_SESSION_KEY = {
    "first_message_index": 1,
    "forwarded_count": 0,
    "is_verified": True,
    "session_data": {"ciphertext": "c"},
}

_DEHYDRATED = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"

_ENCRYPTION = (
    _guests("POST", "/keys/upload", {"device_keys": {"user_id": "$me", "device_id": "$device", "algorithms": ["m.olm.v1.curve25519-aes-sha2"], "keys": {"ed25519:$device": "made+up"}, "signatures": {"$me": {"ed25519:$device": "made+up"}}}, "one_time_keys": {"signed_curve25519:AAAA": {"key": "k", "signatures": {"$me": {"ed25519:$device": "s"}}}}, "fallback_keys": {"signed_curve25519:AAAB": {"key": "k", "fallback": True, "signatures": {}}}}),
    _guests("POST", "/keys/query", {"device_keys": {"$bob": [], "$me": ["$device"]}, "timeout": 1000}),
    _guests("POST", "/keys/claim", {"one_time_keys": {"$bob": {"DEVICE": "signed_curve25519"}}, "timeout": 1000}),
    _users("GET", "/keys/changes", **{"from": "$since", "to": "$since"}),
    _users("POST", "/keys/device_signing/upload", {"master_key": _CROSS_SIGNING_KEY, "self_signing_key": _CROSS_SIGNING_KEY, "user_signing_key": _CROSS_SIGNING_KEY, "auth": _PASSWORD}),
    _users("POST", "/keys/signatures/upload", {"$me": {"$device": {"user_id": "$me", "signatures": {"$me": {"ed25519:x": "s"}}}}}),
    _users("POST", "/room_keys/version", {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "k", "signatures": {}}}),
    _users("GET", "/room_keys/version"),
    _users("GET", "/room_keys/version/{version}"),
    _users("PUT", "/room_keys/version/{version}", {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "k", "signatures": {}}, "version": "1"}),
    _users("DELETE", "/room_keys/version/{version}"),
    _users("PUT", "/room_keys/keys", {"rooms": {"$room": {"sessions": {"session": _SESSION_KEY}}}}, version="1"),
    _users("GET", "/room_keys/keys", version="1"),
    _users("DELETE", "/room_keys/keys", version="1"),
    _users("PUT", "/room_keys/keys/{roomId}", {"sessions": {"session": _SESSION_KEY}}, version="1"),
    _users("GET", "/room_keys/keys/{roomId}", version="1"),
    _users("DELETE", "/room_keys/keys/{roomId}", version="1"),
    _users("PUT", "/room_keys/keys/{roomId}/{sessionId}", _SESSION_KEY, version="1"),
    _users("GET", "/room_keys/keys/{roomId}/{sessionId}", version="1"),
    _users("DELETE", "/room_keys/keys/{roomId}/{sessionId}", version="1"),
    _guests("PUT", "/sendToDevice/{eventType}/{txnId}", {"messages": {"$bob": {"*": {"any": "thing"}}}}),
    _users("PUT", _DEHYDRATED, {"device_id": "SLEEPER", "device_data": {"algorithm": "a"}, "initial_device_display_name": "n", "device_keys": {"user_id": "$me", "device_id": "SLEEPER", "algorithms": ["a"], "keys": {"ed25519:SLEEPER": "k"}, "signatures": {"$me": {"ed25519:SLEEPER": "s"}}, "dehydrated": True}, "one_time_keys": {}, "fallback_keys": {}}),
    _users("GET", _DEHYDRATED),
    _users("DELETE", _DEHYDRATED),
    _users("GET", _DEHYDRATED + "/{deviceId}/events", **{"from": "d1"}),
    _users("POST", _DEHYDRATED + "/{deviceId}/events", {"next_batch": "d1"}),
)  # fmt: skip

_OPENID = {
    "access_token": "none",
    "token_type": "Bearer",
    "matrix_server_name": "localhost",
    "expires_in": 3600,
}
_DELAYED = "/_matrix/client/unstable/org.matrix.msc4140"
_LIVEKIT = "/_matrix/client/unstable/org.lares.livekit"

_CALLS = (
    _users("GET", "/voip/turnServer"),
    _users("GET", "/rtc/transports"),
    _users("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"),
    _anyone("POST", _LIVEKIT + "/sfu/get", {"room": "$room", "openid_token": _OPENID, "device_id": "$device"}),
    _anyone("POST", _LIVEKIT + "/get_token", {"room_id": "$room", "slot_id": "m.call#ROOM", "openid_token": _OPENID, "member": {"id": "m", "claimed_user_id": "$me", "claimed_device_id": "$device"}}),
    _anyone("POST", _LIVEKIT + "/delegate_delayed_leave", {"room_id": "$room", "slot_id": "m.call#ROOM", "openid_token": _OPENID, "member": {"id": "m", "claimed_user_id": "$me", "claimed_device_id": "$device"}, "delay_id": "none"}),
    _anyone("POST", _LIVEKIT + "/sfu_webhook", {"event": "participant_left", "room": {"name": "none"}, "participant": {"identity": "none"}}),
    _anyone("GET", _LIVEKIT + "/healthz"),
    _guests("PUT", _DELAYED + "/rooms/{roomId}/delayed_event/{eventType}/{txnId}", {"delay_ms": 3600000, "delay": 3600000, "state_key": "x", "content": {"body": "later"}}),
    _guests("GET", _DELAYED + "/delayed_events", status="scheduled", delay_id="none"),
    _guests("GET", _DELAYED + "/delayed_events/none"),
    _anyone("POST", _DELAYED + "/delayed_events/none", {"action": "restart"}),
    _anyone("POST", _DELAYED + "/delayed_events/none/send"),
    _guests("GET", "/_matrix/client/unstable/org.lares.calls/history", limit="5", since="n5_1-3", outcome="missed", **{"from": "h7"}),
)  # fmt: skip

_THUMBNAIL = {"width": "32", "height": "32", "method": "crop", "timeout_ms": "0", "animated": "true"}
_MEDIA = (
    _users("POST", "/_matrix/media/v1/create", {}),
    _guests("GET", "/media/config"),
    _guests("GET", "/media/download/{serverName}/{mediaId}", timeout_ms="0"),
    _guests("GET", "/media/download/{serverName}/{mediaId}/{fileName}", timeout_ms="0"),
    Endpoint("GET", "/media/thumbnail/{serverName}/{mediaId}", "guests", None, _THUMBNAIL),
    _anyone("GET", "/_matrix/media/v3/download/{serverName}/{mediaId}"),
    _anyone("GET", "/_matrix/media/r0/thumbnail/{serverName}/{mediaId}"),
)

ENDPOINTS: tuple[Endpoint, ...] = (*_ACCOUNTS, *_SYNC, *_ROOMS, *_BESIDE, *_ENCRYPTION, *_CALLS, *_MEDIA)
