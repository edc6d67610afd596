# SPDX-License-Identifier: Apache-2.0
"""One of those who talk in an encrypted room with other clients, through mautrix and its crypto (libolm).

    python mautrix_room.py '{"baseUrl": …, "user": …, "password": …}' '["@user:…", …]'

Owns its part of the conversation of `mixed_room.py`. It imports nothing of the project: its environment does not hold
the project's packages.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from mautrix.client import Client, DecryptionDispatcher, InternalEventType, MemoryStateStore
from mautrix.crypto import MemoryCryptoStore, OlmMachine
from mautrix.errors import DecryptionError, SessionNotFound
from mautrix.types import EventType, Membership, TOFUSigningKey

PATIENCE = 120.0


class States(MemoryStateStore):  # type: ignore[misc]
    """What the crypto asks besides; the library has it for databases only."""

    async def find_shared_rooms(self, user_id: str) -> list[str]:
        """Encrypted rooms with that user."""
        return [room_id for room_id, members in self.members.items() if user_id in members]


class Keys(MemoryCryptoStore):  # type: ignore[misc]
    """What the device knows. The library's own fails when somebody's cross-signing key comes a second time."""

    async def put_cross_signing_key(self, user_id: str, usage: Any, key: Any) -> None:
        """Somebody's key; the first one that was ever seen is kept beside it."""
        known = self._cross_signing_keys.setdefault(user_id, {})
        first = known[usage].first if usage in known else key
        known[usage] = TOFUSigningKey(key=key, first=first)


class Device:
    """A logged-in device and what it could read, or not."""

    def __init__(self, account: dict[str, str]) -> None:
        self.states = States()
        store = Keys(account["user"], "pickle")
        self.client = Client(
            account["user"], base_url=account["baseUrl"], state_store=self.states, sync_store=store
        )
        self.crypto = OlmMachine(self.client, store, self.states)
        self.client.crypto = self.crypto
        # It gives up on a message that is looked at before the key that came with it; bots and bridges wait instead.
        self.client.remove_dispatcher(DecryptionDispatcher)
        self.heard: list[str] = []
        self.problems: list[str] = []
        self.invited: list[str] = []
        self._password = account["password"]
        self._seen: set[str] = set()
        self._news = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self.client.add_event_handler(EventType.ROOM_ENCRYPTED, self._read)
        self.client.add_event_handler(EventType.ROOM_MESSAGE, self._in_the_clear)
        self.client.add_event_handler(EventType.ROOM_MEMBER, self._member)
        self.client.add_event_handler(InternalEventType.SYNC_SUCCESSFUL, self._synced)
        self.client.add_event_handler(InternalEventType.SYNC_ERRORED, self._failed)

    async def _read(self, event: Any) -> None:
        try:
            try:
                clear = await self.crypto.decrypt_megolm_event(event)
            except SessionNotFound:
                await self.crypto.wait_for_session(event.room_id, event.content.session_id, PATIENCE)
                clear = await self.crypto.decrypt_megolm_event(event)
            self.heard.append(clear.content.body)
        except DecryptionError as error:
            self.problems.append(f"not to be read: {event.event_id} of {event.sender}: {error!r}")
        await self._wake()

    async def _in_the_clear(self, event: Any) -> None:
        self.problems.append(f"in the clear: {event.content.body}")

    async def _member(self, event: Any) -> None:
        if event.state_key == self.client.mxid and event.content.membership == Membership.INVITE:
            self.invited.append(event.room_id)
        await self._wake()

    async def _failed(self, data: dict[str, Any]) -> None:
        self.problems.append(f"sync: {data['error']!r}")

    async def _synced(self, update: dict[str, Any]) -> None:
        """Before the events are looked at: what comes after a gap may have been told before, as clients know."""
        for room in update["data"].get("rooms", {}).get("join", {}).values():
            timeline = room.get("timeline", {})
            if timeline.get("limited"):
                timeline["events"] = [e for e in timeline["events"] if e["event_id"] not in self._seen]
            self._seen.update(event["event_id"] for event in timeline.get("events", ()))
        await self._wake()

    async def _wake(self, _data: object = None) -> None:
        self._news.set()
        self._news.clear()

    async def enter(self) -> None:
        """Log in, upload keys, and follow what happens from now on."""
        await self.client.login(password=self._password)
        await self.crypto.load()
        await self.crypto.share_keys()
        self._loop = self.client.start(None)

    async def until(self, what: str, look: Callable[[], object]) -> None:
        """Wait for news until `look()` is truthy."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not look():
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"waited for {what}; heard {self.heard}: {self.problems}") from None

    def all_are_in(self, room_id: str, everybody: list[str]) -> bool:
        """Whether all have joined the room, which is encrypted."""
        members = self.states.members.get(room_id, {})
        joined = {user_id for user_id, member in members.items() if member.membership == Membership.JOIN}
        return joined.issuperset(everybody) and self.states.encryption.get(room_id) is not None

    async def close(self) -> None:
        """Stop the sync loop and close the connections."""
        if self._loop is not None:
            self.client.stop()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self.client.api.session.close()


async def converse(account: dict[str, str], everybody: list[str]) -> None:
    """Go in, greet, answer, and tell what was read."""
    device = Device(account)
    try:
        await device.enter()
        await device.until("the invitation", lambda: device.invited)
        (room_id,) = device.invited
        await device.client.join_room_by_id(room_id)
        await device.until("everybody", lambda: device.all_are_in(room_id, everybody))
        for text in ("hello from {}", "{} has heard all"):
            await device.client.send_text(room_id, text.format(account["user"]))
            expected = {text.format(user_id) for user_id in everybody}
            await device.until(text, partial(expected.issubset, device.heard))
        record = {"step": "heard", "texts": device.heard, "problems": device.problems}
        sys.stdout.write(json.dumps(record) + "\n")
    finally:
        await device.close()


if __name__ == "__main__":
    asyncio.run(converse(*map(json.loads, sys.argv[1:3])))
