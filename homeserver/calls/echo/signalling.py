# SPDX-License-Identifier: Apache-2.0
"""`m.call.*` events as the echo reads and writes them, version 0 and 1. Client-server API, "Voice over IP".

Pure. What comes is a stranger's: whatever is not as it should be makes no call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

INVITE: Final = "m.call.invite"
CANDIDATES: Final = "m.call.candidates"
ANSWER: Final = "m.call.answer"
SELECT_ANSWER: Final = "m.call.select_answer"
NEGOTIATE: Final = "m.call.negotiate"
HANGUP: Final = "m.call.hangup"
REJECT: Final = "m.call.reject"
TYPES: Final = (INVITE, CANDIDATES, ANSWER, SELECT_ANSWER, NEGOTIATE, HANGUP, REJECT)

LEAST_LEFT_MS: Final = 1000
"""Of an invite's life: what is over in a moment is not answered any more."""
LONGEST_LIFE_MS: Final = 120_000
LONGEST_ID: Final = 255
NEGOTIATION_MS: Final = 60_000


class Invite(Struct, frozen=True, kw_only=True):
    """A call somebody makes."""

    room_id: str
    call_id: str
    caller: str
    party_id: str | None
    """Of the caller; None in version 0."""
    version: object
    sdp: str


def invite_of(room_id: str, event: Mapping[str, Any], own: str) -> Invite | None:
    """The invite, if it is one for `own` that still holds."""
    content = event.get("content")
    if not isinstance(content, Mapping):
        return None
    offer, call_id, version = content.get("offer"), content.get("call_id"), content.get("version")
    sdp = offer.get("sdp") if isinstance(offer, Mapping) and offer.get("type") == "offer" else None
    if not isinstance(sdp, str) or not isinstance(call_id, str) or not 0 < len(call_id) <= LONGEST_ID:
        return None
    if content.get("invitee", own) != own or not _is_alive(event, content):
        return None
    party = content.get("party_id") if is_v1(version) else None
    if is_v1(version) and not (isinstance(party, str) and 0 < len(party) <= LONGEST_ID):
        return None
    return Invite(
        room_id=room_id,
        call_id=call_id,
        caller=str(event.get("sender")),
        party_id=party,
        version=version if version == 0 and type(version) is int else "1",
        sdp=sdp,
    )


def _is_alive(event: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    lifetime, age = content.get("lifetime"), (event.get("unsigned") or {}).get("age", 0)
    if type(lifetime) is not int or type(age) is not int:
        return False
    return min(lifetime, LONGEST_LIFE_MS) - age >= LEAST_LEFT_MS


def is_v1(version: object) -> bool:
    """Any version but 0 is to be treated as 1."""
    return not (type(version) is int and version == 0)


def candidates_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The candidates of `m.call.candidates`."""
    found = content.get("candidates")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return []
    names = ("candidate", "sdpMid", "sdpMLineIndex")
    return [{name: each.get(name) for name in names} for each in found if isinstance(each, Mapping)]


def new_offer_of(content: Mapping[str, Any]) -> str | None:
    """The offer that `m.call.negotiate` brings, if it brings one."""
    description = content.get("description")
    if not isinstance(description, Mapping) or description.get("type") != "offer":
        return None
    sdp = description.get("sdp")
    return sdp if isinstance(sdp, str) else None


def head(call_id: str, version: object, party_id: str) -> dict[str, Any]:
    """What every event of a call has."""
    content: dict[str, Any] = {"call_id": call_id, "version": version}
    if is_v1(version):
        content["party_id"] = party_id
    return content


def answer(sdp: str) -> dict[str, Any]:
    """What `m.call.answer` has besides."""
    return {
        "answer": {"type": "answer", "sdp": sdp},
        "capabilities": {"m.call.transferee": False, "m.call.dtmf": False},
    }


def negotiation(sdp: str) -> dict[str, Any]:
    """What the `m.call.negotiate` that answers one has besides."""
    return {"description": {"type": "answer", "sdp": sdp}, "lifetime": NEGOTIATION_MS}
