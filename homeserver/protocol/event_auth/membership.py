# SPDX-License-Identifier: Apache-2.0
"""The rule for `m.room.member` (rule 5 of versions 1–5 and 12, rule 4 of versions 6–11).

Owns every membership's branch but third-party invites, which are `third_party_invite`'s. A state key need not
be a user id by these rules; code that reads a domain from one must bear any string.
"""

from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.event_auth.room_state import RoomState
from homeserver.protocol.event_auth.third_party_invite import check_third_party_invite
from homeserver.protocol.events import Event
from homeserver.protocol.membership import Membership


def check_membership(event: Event, room: RoomState) -> None:
    """Raises AuthError unless the change of membership is allowed.

    Versions 8+ also reject an event with `join_authorised_via_users_server` that this user's server has not
    signed. That part needs keys, depends on no state and holds for the life of the event, so it is made once,
    with the other signatures (`signing.required_signing_domains`).
    """
    target = event.state_key
    if target is None:
        raise AuthError("m.room.member has no state_key")
    if "membership" not in event.content:
        raise AuthError("m.room.member has no membership")
    match Membership.from_content(event.content):
        case Membership.JOIN:
            _check_join(event, target, room)
        case Membership.INVITE:
            _check_invite(event, target, room)
        case Membership.LEAVE:
            _check_leave(event, target, room)
        case Membership.BAN:
            _check_ban(event, target, room)
        case Membership.KNOCK if room.version.knock:
            _check_knock(event, target, room)
        case _:
            raise AuthError("unknown membership")


def _check_join(event: Event, target: str, room: RoomState) -> None:
    if event.prev_event_ids == (room.create.event_id,) and target == _first_member(room):
        return
    if event.sender != target:
        raise AuthError("nobody can join for another user")
    membership = room.membership(target)
    if membership is Membership.BAN:
        raise AuthError(f"{target} is banned from the room")
    rule, version = room.join_rule, room.version
    if rule == "public":
        return
    restricted = (rule == "restricted" and version.restricted_joins) or (
        rule == "knock_restricted" and version.knock_restricted
    )
    if not restricted and rule != "invite" and not (rule == "knock" and version.knock):
        raise AuthError(f"the join rule {rule[:32]!r} lets nobody join")
    if membership in (Membership.INVITE, Membership.JOIN):
        return
    if not restricted:
        raise AuthError(f"{target} is not invited to the room")
    authoriser = event.content.get("join_authorised_via_users_server")
    if not isinstance(authoriser, str):
        raise AuthError("the join to this restricted room is authorised by nobody, and there is no invite")
    room.require_joined(authoriser)
    if room.levels.user_level(authoriser) < room.levels.invite:
        raise AuthError(f"{authoriser} cannot authorise joins: not enough power to invite")


def _first_member(room: RoomState) -> object:
    """Who may join right after the create event: its sender, or before version 11 the `creator` in its
    content.
    """
    return room.create.content.get("creator") if room.version.create_has_creator else room.create.sender


def _check_invite(event: Event, target: str, room: RoomState) -> None:
    if "third_party_invite" in event.content:
        check_third_party_invite(event, target, room)
        return
    room.require_joined(event.sender)
    membership = room.membership(target)
    if membership is Membership.JOIN:
        raise AuthError(f"{target} is already in the room")
    if membership is Membership.BAN:
        raise AuthError(f"{target} is banned from the room")
    if room.levels.user_level(event.sender) < room.levels.invite:
        raise AuthError(f"{event.sender} has not enough power to invite")


def _check_leave(event: Event, target: str, room: RoomState) -> None:
    membership = room.membership(target)
    if event.sender == target:
        if membership in (Membership.INVITE, Membership.JOIN):
            return
        if membership is Membership.KNOCK and room.version.knock:
            return
        raise AuthError(f"{target} is not in room {room.create.room_id} and cannot leave it")
    room.require_joined(event.sender)
    levels = room.levels
    level = levels.user_level(event.sender)
    if membership is Membership.BAN and level < levels.ban:
        raise AuthError(f"{event.sender} has not enough power to lift a ban")
    if level < levels.kick or levels.user_level(target) >= level:
        raise AuthError(f"{event.sender} has not enough power to kick {target}")


def _check_ban(event: Event, target: str, room: RoomState) -> None:
    room.require_joined(event.sender)
    levels = room.levels
    level = levels.user_level(event.sender)
    if level < levels.ban or levels.user_level(target) >= level:
        raise AuthError(f"{event.sender} has not enough power to ban {target}")


def _check_knock(event: Event, target: str, room: RoomState) -> None:
    rule = room.join_rule
    if rule != "knock" and not (rule == "knock_restricted" and room.version.knock_restricted):
        raise AuthError(f"the join rule {rule[:32]!r} does not let users knock")
    if event.sender != target:
        raise AuthError("nobody can knock for another user")
    membership = room.membership(target)
    if membership in (Membership.BAN, Membership.INVITE, Membership.JOIN):
        raise AuthError(f"{target} cannot knock: the membership is {membership}")
