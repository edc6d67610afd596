# SPDX-License-Identifier: Apache-2.0
"""What of another server's words about devices is believed: the form, the owner, and so much of it as may be kept.

The keys' own signatures are for clients to judge; that a server speaks of its own users only is the callers' to see to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from homeserver.protocol.device_keys import (
    MAX_NAME,
    KeyFormError,
    checked_cross_signing_key,
    checked_device_keys,
    checked_one_time_key,
)
from storage.device_lists import RemoteDevice

MOST_DEVICES: Final = 1_000
"""Of one user; what is beyond is not seen."""
MAX_DISPLAY_NAME: Final = 256


def device_keys(value: object, user_id: str, device_id: str) -> dict[str, Any] | None:
    """Device keys with their display name in `unsigned`; None for what has not the form."""
    if type(value) is not dict or not is_device_id(device_id):
        return None
    try:
        keys = checked_device_keys(value, user_id, device_id)
    except KeyFormError:
        return None
    unsigned = value.get("unsigned")
    name = display_name(unsigned.get("device_display_name") if type(unsigned) is dict else None)
    keys["unsigned"] = {} if name is None else {"device_display_name": name}
    return keys


def cross_signing_key(value: object, user_id: str, usage: str) -> dict[str, Any] | None:
    """A cross-signing key with its owner's signatures; None for what has not the form."""
    try:
        return checked_cross_signing_key(value, user_id, usage).value
    except KeyFormError:
        return None


def one_time_keys(value: object) -> dict[str, Any]:
    """Of the keys another server gave out for a device, the first that has the form: no more was asked for."""
    for name, key in _entries(value):
        try:
            checked_one_time_key(name, key)
        except KeyFormError:
            continue
        return {name: key}
    return {}


def remote_device(value: Mapping[str, Any], user_id: str) -> RemoteDevice | None:
    """A device as it stands in lists and updates: `device_id`, `device_display_name`, `keys`; None: not a device."""
    device_id = value.get("device_id")
    if not isinstance(device_id, str) or not is_device_id(device_id):
        return None
    keys = device_keys(value.get("keys"), user_id, device_id)
    if keys is not None:
        del keys["unsigned"]
    name = display_name(value.get("device_display_name"))
    return RemoteDevice(device_id, name, None if keys is None else orjson.dumps(keys).decode())


def display_name(value: object) -> str | None:
    """A display name that may be kept, cut where it is too long."""
    return value[:MAX_DISPLAY_NAME] if isinstance(value, str) and "\0" not in value else None


def is_device_id(text: str) -> bool:
    """Whether a device may be called so."""
    return 0 < len(text) <= MAX_NAME and "\0" not in text


def _entries(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
