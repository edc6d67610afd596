# SPDX-License-Identifier: Apache-2.0
"""What may stand in a profile (client-server API, "Profiles"; MSC4133). Pure."""

from __future__ import annotations

from typing import Any

import orjson
from msgspec.structs import replace

from homeserver.errors import InvalidParam, KeyTooLarge, ProfileTooLarge
from homeserver.protocol.identifiers import is_valid_mxc_uri, is_valid_namespaced_identifier
from storage.profiles import Profile

DISPLAYNAME = "displayname"
AVATAR_URL = "avatar_url"
TIME_ZONE = "m.tz"
MAX_KEY_BYTES = 255
MAX_PROFILE_BYTES = 65_536
MAX_DISPLAYNAME = 256
"""Characters. Names go into an event of every room, and events have a limit of their own."""
MAX_AVATAR_URL = 1000
MAX_TIME_ZONE = 255


def as_dict(profile: Profile) -> dict[str, Any]:
    """The profile as clients see it: what is not set is absent."""
    shown = dict(profile.fields)
    if profile.displayname is not None:
        shown[DISPLAYNAME] = profile.displayname
    if profile.avatar_url is not None:
        shown[AVATAR_URL] = profile.avatar_url
    return shown


def check_key(key: str) -> None:
    """Raise KeyTooLarge or InvalidParam for what cannot name a field."""
    if len(key.encode()) > MAX_KEY_BYTES:
        raise KeyTooLarge
    if not is_valid_namespaced_identifier(key):
        raise InvalidParam("Invalid profile key")


def with_field(profile: Profile, key: str, value: Any) -> Profile:
    """The profile with a field set. Raises InvalidParam, KeyTooLarge, ProfileTooLarge.

    An empty display name or avatar URL removes it, as clients did before there was a way to.
    """
    check_key(key)
    if key in {DISPLAYNAME, AVATAR_URL} and value == "":
        return without_field(profile, key)
    if key == DISPLAYNAME:
        changed = replace(profile, displayname=_checked(key, value, MAX_DISPLAYNAME))
    elif key == AVATAR_URL:
        if not is_valid_mxc_uri(_checked(key, value, MAX_AVATAR_URL)):
            raise InvalidParam("avatar_url must be an mxc:// URI")
        changed = replace(profile, avatar_url=value)
    else:
        if key == TIME_ZONE:
            _checked(key, value, MAX_TIME_ZONE)
        changed = replace(profile, fields={**profile.fields, key: value})
    if len(orjson.dumps(as_dict(changed))) > MAX_PROFILE_BYTES:
        raise ProfileTooLarge
    return changed


def without_field(profile: Profile, key: str) -> Profile:
    """The profile without a field. Raises as `check_key`."""
    check_key(key)
    if key == DISPLAYNAME:
        return replace(profile, displayname=None)
    if key == AVATAR_URL:
        return replace(profile, avatar_url=None)
    return replace(profile, fields={name: value for name, value in profile.fields.items() if name != key})


def _checked(key: str, value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise InvalidParam(f"{key} must be a string")
    if len(value) > longest:
        raise InvalidParam(f"{key} is at most {longest} characters long")
    if "\0" in value:
        raise InvalidParam(f"{key} contains NUL")
    return value
