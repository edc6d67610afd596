# SPDX-License-Identifier: Apache-2.0
"""Messages to devices of other servers: `m.direct_to_device` (server-server API, "Send-to-device messaging").

Owns how the messages of one request are split into units, and their ids, by which a receiver knows a repetition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import orjson

from federation.outbound.outbox import OutgoingEdu
from homeserver.devices.remote import MessagesOut
from homeserver.needs import Protocol

MOST_BYTES: Final = 65_536
"""Of messages in one unit, if there is more than one."""


class Outbox(Protocol):
    """`federation.outbound.Outbox`."""

    async def keep(self, edus: Sequence[OutgoingEdu]) -> None: ...


class FederatedDevices:
    """See `homeserver.devices.remote.RemoteDevices`."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def send(self, messages: MessagesOut) -> None:
        """Keep them in the outbox."""
        by_server: dict[str, dict[str, Mapping[str, Any]]] = {}
        for user_id, devices in messages.messages.items():
            by_server.setdefault(user_id.partition(":")[2], {})[user_id] = devices
        edus = [
            OutgoingEdu(server, "m.direct_to_device", content)
            for server, users in sorted(by_server.items())
            for content in _units(messages, server, users)
        ]
        await self._outbox.keep(edus)


def _units(
    messages: MessagesOut, server: str, users: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    for number, portion in enumerate(_portions(users)):
        text = "\0".join((messages.transaction, server, str(number)))
        yield {
            "sender": messages.sender,
            "type": messages.type,
            "message_id": blake2b(text.encode(), digest_size=16).hexdigest(),
            "messages": portion,
        }


def _portions(users: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    portion: dict[str, dict[str, Any]] = {}
    size = 0
    for user_id, devices in users.items():
        for device_id, content in devices.items():
            weight = len(orjson.dumps(content)) + len(user_id) + len(device_id)
            if portion and size + weight > MOST_BYTES:
                yield portion
                portion, size = {}, 0
            portion.setdefault(user_id, {})[device_id] = content
            size += weight
    if portion:
        yield portion
