# SPDX-License-Identifier: Apache-2.0
"""Member events that another server drafts for a user of ours to sign.

A server that answers make_join, make_leave or make_knock could have us sign anything (CVE-2025-68667, CVE-2026-24471 of
others). So nothing it sends is signed: every field is checked, and the event is built anew from what *we* want said, of
the answer taking only its place in the room's graph and who vouches for a restricted join.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from federation.client.answers import MembershipTemplate
from federation.client.errors import BadAnswer
from homeserver.protocol.building import BuiltEvent, build_event, next_depth
from homeserver.protocol.errors import ProtocolError
from homeserver.protocol.event_format import MAX_AUTH_EVENTS, MAX_PREV_EVENTS
from homeserver.protocol.identifiers import domain_of, is_valid_event_id, is_valid_user_id
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.engine.working import Signer

MEMBER = "m.room.member"
_LIMITS = {"prev_events": MAX_PREV_EVENTS, "auth_events": MAX_AUTH_EVENTS}
AUTHORISER = "join_authorised_via_users_server"


class Templates:
    """Makes events of templates."""

    def __init__(self, *, signer: Signer, now: Callable[[], int]) -> None:
        """`now`: milliseconds since 1970."""
        self._signer = signer
        self._now = now

    def rebuild(
        self,
        destination: str,
        template: MembershipTemplate,
        version: RoomVersion,
        *,
        room_id: str,
        user_id: str,
        content: Mapping[str, Any],
    ) -> BuiltEvent:
        """The member event of `content` (its membership included) where the template places it, signed.

        Raises BadAnswer if the template is for anything else.
        """
        membership = content["membership"]
        drafted = template.event.get("content")
        expected = {"type": MEMBER, "room_id": room_id, "sender": user_id, "state_key": user_id}
        for key, value in expected.items():
            if template.event.get(key) != value:
                raise BadAnswer(destination, f"the template's {key} is not {value}")
        if type(drafted) is not dict or drafted.get("membership") != membership:
            raise BadAnswer(destination, f"the template is no {membership}")
        wanted = {key: value for key, value in content.items() if key != AUTHORISER}
        if membership == "join" and version.restricted_joins and AUTHORISER in drafted:
            wanted[AUTHORISER] = _authoriser(destination, drafted[AUTHORISER])
        hashes: dict[str, str] = {}
        prev = _references(destination, template.event, "prev_events", version, hashes)
        auth = _references(destination, template.event, "auth_events", version, hashes)
        if not prev:
            raise BadAnswer(destination, "the template comes after nothing")
        depth = template.event.get("depth")
        if type(depth) is not int or depth < 1:
            raise BadAnswer(destination, "the template has no depth")
        try:
            return build_event(
                room_version=version,
                room_id=room_id,
                event_type=MEMBER,
                state_key=user_id,
                sender=user_id,
                content=wanted,
                prev_event_ids=prev,
                auth_event_ids=auth,
                depth=next_depth((depth - 1,), version),
                origin_server_ts=self._now(),
                server_name=self._signer.server_name,
                signing_key=self._signer.key,
                event_id=self._event_id() if version.chooses_event_ids else None,
                reference_hashes=hashes,
            )
        except ProtocolError as error:
            raise BadAnswer(destination, f"no event can be made of the template: {error}") from error

    def _event_id(self) -> str:
        return f"${secrets.token_urlsafe(18)}:{self._signer.server_name}"


def _authoriser(destination: str, named: Any) -> str:
    """Who vouches: a user of the server that was asked, since that server is to sign it."""
    if type(named) is not str or not is_valid_user_id(named) or domain_of(named) != destination:
        raise BadAnswer(destination, "the template names somebody else's user to vouch for the join")
    return named


def _references(
    destination: str,
    event: Mapping[str, Any],
    key: str,
    version: RoomVersion,
    hashes: dict[str, str],
) -> Sequence[str]:
    """The event ids in `prev_events` or `auth_events`; the hashes beside them go into `hashes`."""
    references = event.get(key)
    limit = _LIMITS[key]
    if type(references) is not list or len(references) > limit:
        raise BadAnswer(destination, f"the template's {key} is no list of at most {limit}")
    found = []
    for reference in references:
        event_id = reference
        if version.chooses_event_ids:
            if type(reference) is not list or len(reference) != 2 or type(reference[1]) is not dict:
                raise BadAnswer(destination, f"the template's {key} has no pairs of id and hashes")
            event_id, digest = reference[0], reference[1].get("sha256", "")
            if type(digest) is not str or type(event_id) is not str:
                raise BadAnswer(destination, f"the template's {key} has hashes that are none")
            hashes[event_id] = digest
        if type(event_id) is not str or not is_valid_event_id(event_id) or "\0" in event_id:
            raise BadAnswer(destination, f"the template's {key} names no events")
        found.append(event_id)
    if len(set(found)) != len(found):
        raise BadAnswer(destination, f"the template's {key} repeats itself")
    return found
