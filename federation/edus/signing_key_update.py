# SPDX-License-Identifier: Apache-2.0
"""`m.signing_key_update` of other servers (server-server API, "End-to-End Encryption")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.devices import checking
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of, is_valid_user_id


class Lists(Protocol):
    """`federation.devices.lists.RemoteLists`."""

    async def update_signing_keys(self, user_id: str, keys: Mapping[str, Mapping[str, Any]]) -> None: ...


class SigningKeyEdus:
    """Takes cross-signing keys of users who are the origin's."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """One unit."""
        user_id = content.get("user_id")
        if not (isinstance(user_id, str) and is_valid_user_id(user_id) and domain_of(user_id) == origin):
            return
        keys = {
            usage: key
            for name, usage in (("master_key", "master"), ("self_signing_key", "self_signing"))
            if (key := checking.cross_signing_key(content.get(name), user_id, usage)) is not None
        }
        if "\0" not in user_id:
            await self._lists.update_signing_keys(user_id, keys)
