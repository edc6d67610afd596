# SPDX-License-Identifier: Apache-2.0
"""One of those who talk in an encrypted room with other clients, through matrix-nio and its crypto.

    python -m tests.interop.nio_room '{"baseUrl": …, "user": …, "password": …}' '["@user:…", …]'

Owns its part of the conversation of `mixed_room.py`, and the patience that clients have who talk with others over
several servers: a message may come before its key. It imports nothing of the project but the other nio scripts: its
environment does not hold the project's packages.
"""

import asyncio
import json
import sys
import tempfile
from functools import partial
from typing import Any

from nio import EncryptionError
from nio.crypto.memorystores import GroupSessionStore

from tests.interop.nio_encryption import Device, checked, saw


class Sessions(GroupSessionStore):  # type: ignore[misc]
    """Keys to what others say. The library's own lets one that is sent again, and opens less, replace the first."""

    def add(self, session: Any) -> bool:
        """Keep a session, unless what is here opens as much."""
        known = self.get(session.room_id, session.sender_key, session.id)
        if known is not None and known.first_known_index <= session.first_known_index:
            return False
        added: bool = super().add(session)
        return added


class Patient(Device):
    """A device that tries again to read what it could not, after each sync."""

    def __init__(self, store: str, account: dict[str, str]) -> None:
        super().__init__(store, account)
        self._unread: list[tuple[str, Any]] = []

    async def enter(self) -> None:
        """Log in, with the other store of keys."""
        await super().enter()
        self.client.olm.inbound_group_store = Sessions()

    async def _unreadable(self, room: Any, event: Any) -> None:
        self._unread.append((room.room_id, event))

    def _wake(self, *_: object) -> None:
        still: list[tuple[str, Any]] = []
        for room_id, event in self._unread:
            try:
                self.heard.append(self.client.olm.decrypt_megolm_event(event, room_id).body)
            except EncryptionError:
                still.append((room_id, event))
        self._unread = still
        super()._wake()

    @property
    def unread(self) -> list[str]:
        """What could not be read to the end."""
        return [f"not to be read: {event.event_id}" for _, event in self._unread]


async def converse(store: str, account: dict[str, str], everybody: list[str]) -> None:
    """Go in, greet, answer, and tell what was read."""
    device = Patient(store, account)
    try:
        await device.enter()
        await device.until("the invitation", lambda: device.client.invited_rooms)
        room_id = next(iter(device.client.invited_rooms))
        checked(await device.client.join(room_id))
        await device.until("everybody", partial(_all_are_in, device.client, room_id, everybody))
        for text in ("hello from {}", "{} has heard all"):
            await device.say(room_id, text.format(account["user"]))
            expected = {text.format(user_id) for user_id in everybody}
            await device.until(text, partial(expected.issubset, device.heard))
        saw("heard", texts=device.heard, problems=[*device.problems, *device.unread])
    finally:
        await device.close()


def _all_are_in(client: Any, room_id: str, everybody: list[str]) -> bool:
    """Whether all have joined and their keys are here."""
    room = client.rooms.get(room_id)
    here = set(room.users) - set(room.invited_users) if room is not None else set()
    return (
        room is not None
        and room.encrypted
        and here.issuperset(everybody)
        and all(
            any(client.device_store.active_user_devices(user)) for user in {*everybody} - {client.user_id}
        )
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(converse(folder, *map(json.loads, sys.argv[1:3])))
