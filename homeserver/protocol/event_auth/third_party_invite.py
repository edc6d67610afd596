# SPDX-License-Identifier: Apache-2.0
"""Invites that redeem an `m.room.third_party_invite`: the proof that the invited user owns the address."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Final

from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.errors import CanonicalJsonError
from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.event_auth.room_state import RoomState
from homeserver.protocol.events import Event
from homeserver.protocol.membership import Membership
from homeserver.protocol.signing import ALGORITHM, VerifyKey

# Any signature may match any key, so 64 KiB of each could ask for half a million verifications of 50 µs. Real
# invites carry one or two of each; what is over this bound is a means of attack and no invite.
_MOST_VERIFICATIONS: Final = 1024


def check_third_party_invite(event: Event, target: str, room: RoomState) -> None:
    """The rule for `membership` `invite` with `third_party_invite` in the content. Raises AuthError.

    The sender need not be joined (any longer): the invite was authorized when its token was made.
    """
    if room.membership(target) is Membership.BAN:
        raise AuthError(f"{target} is banned from the room")
    invite = event.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, Mapping) else None
    if not isinstance(signed, Mapping):
        raise AuthError("third_party_invite has no signed object")
    if "mxid" not in signed or "token" not in signed:
        raise AuthError("third_party_invite.signed lacks mxid or token")
    if signed["mxid"] != target:
        raise AuthError("third_party_invite.signed is for another user")
    token = signed["token"]
    issued = room.events.get(("m.room.third_party_invite", token)) if isinstance(token, str) else None
    if issued is None:
        raise AuthError("no m.room.third_party_invite has that token")
    if issued.sender != event.sender:
        raise AuthError("the m.room.third_party_invite is by another sender")
    if not _is_signed(signed, issued.content):
        raise AuthError(
            "third_party_invite.signed has no signature by a key of the m.room.third_party_invite"
        )


def _is_signed(signed: Mapping[str, Any], issued: Mapping[str, Any]) -> bool:
    signatures = tuple(dict.fromkeys(_signatures(signed)))
    keys = tuple(dict.fromkeys(_public_keys(issued)))
    if not signatures or not keys or len(signatures) * len(keys) > _MOST_VERIFICATIONS:
        return False
    covered = {key: value for key, value in signed.items() if key not in ("signatures", "unsigned")}
    try:
        data = encode_canonical(covered, strict=False)
    except CanonicalJsonError:
        return False
    return any(key.verifies(data, signature) for key, signature in product(_readable(keys), signatures))


def _signatures(signed: Mapping[str, Any]) -> Iterator[str]:
    by_server = signed.get("signatures")
    for by_key in by_server.values() if isinstance(by_server, Mapping) else ():
        for key_id, signature in by_key.items() if isinstance(by_key, Mapping) else ():
            if key_id.startswith(ALGORITHM + ":") and isinstance(signature, str):
                yield signature


def _public_keys(issued: Mapping[str, Any]) -> Iterator[str]:
    key = issued.get("public_key")
    if isinstance(key, str):
        yield key
    entries = issued.get("public_keys")
    for entry in entries if isinstance(entries, list | tuple) else ():
        key = entry.get("public_key") if isinstance(entry, Mapping) else None
        if isinstance(key, str):
            yield key


def _readable(keys: tuple[str, ...]) -> Iterator[VerifyKey]:
    """The keys that are keys, in the standard or the URL-safe alphabet of Base64
    (`m.room.third_party_invite`).
    """
    for text in keys:
        try:
            yield VerifyKey.from_base64(text.translate({ord("-"): "+", ord("_"): "/"}))
        except ValueError:
            continue
