# SPDX-License-Identifier: Apache-2.0
"""`m.direct_to_device` of other servers (server-server API, "Send-to-device messaging")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.errors import MatrixError
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of, is_valid_user_id

MOST_MESSAGE_ID: Final = 255
"""Characters; the specification says 32, and servers are known to be more liberal."""


class Messages(Protocol):
    """`homeserver.devices.messages.ToDevice`."""

    async def receive(
        self,
        server_name: str,
        message_id: str,
        sender: str,
        event_type: str,
        messages: Mapping[str, Mapping[str, Mapping[str, Any]]],
    ) -> None: ...


class DirectToDeviceEdus:
    """Takes messages from users who are the origin's, once by their id."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """One unit."""
        sender, event_type, message_id = (content.get(name) for name in ("sender", "type", "message_id"))
        messages = content.get("messages")
        if not (isinstance(sender, str) and is_valid_user_id(sender) and domain_of(sender) == origin):
            return
        if not (isinstance(event_type, str) and isinstance(message_id, str) and isinstance(messages, dict)):
            return
        if not 0 < len(message_id) <= MOST_MESSAGE_ID or "\0" in sender:
            return
        wanted = {user_id: devices for user_id, devices in messages.items() if isinstance(devices, dict)}
        try:
            await self._messages.receive(origin, message_id, sender, event_type, wanted)
        except MatrixError:
            return  # malformed or too large, and nobody to tell
