# SPDX-License-Identifier: Apache-2.0
"""One of those who talk in an encrypted room with other clients, through matrix-nio and its crypto.

    python -m tests.interop.nio_room '{"baseUrl": …, "user": …, "password": …}' '["@user:…", …]'

Owns its part of the conversation of `mixed_room.py`. It imports nothing of the project but the other nio scripts: its
environment does not hold the project's packages.
"""

import asyncio
import json
import sys
import tempfile
from functools import partial
from typing import Any

from tests.interop.nio_encryption import Device, checked, saw


async def converse(store: str, account: dict[str, str], everybody: list[str]) -> None:
    """Go in, greet, answer, and tell what was read."""
    device = Device(store, account)
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
        saw("heard", texts=device.heard, problems=device.problems)
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
        and (set(everybody) - {client.user_id} <= set(client.device_store.users))
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(converse(folder, *map(json.loads, sys.argv[1:3])))
