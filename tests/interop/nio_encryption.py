# SPDX-License-Identifier: Apache-2.0
"""Three devices of two accounts talk in an encrypted room through matrix-nio and its crypto.

    python -m tests.interop.nio_encryption STORE '{"baseUrl": …, "user": …, "password": …}' '{…}'

Owns the scenario, and the client of all scripts of nio. Keys are kept in the folder STORE. It prints one JSON object a
line, `{"step": NAME, …}`. It imports nothing of the project: its environment does not hold the project's packages.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from nio import (
    AsyncClient,
    AsyncClientConfig,
    ErrorResponse,
    KeysQueryResponse,
    MegolmEvent,
    RoomMessageText,
    RoomPreset,
    SyncError,
    SyncResponse,
)

PATIENCE = 120.0


def saw(step: str, **what: object) -> None:
    """Print one line of the record."""
    sys.stdout.write(json.dumps({"step": step, **what}) + "\n")
    sys.stdout.flush()


def checked(response: Any) -> Any:
    """The response of a request that must succeed."""
    if isinstance(response, ErrorResponse):
        raise AssertionError(f"{type(response).__name__}: {response.status_code} {response.message}")
    return response


class Client(AsyncClient):  # type: ignore[misc]
    """The library's client, where it takes an answer that comes late for the newest, or does not wait for it."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._asking: list[set[str]] = []

    async def keys_query(self) -> Any:
        """Ask for the keys of whose devices changed, and again for those that changed while it was asked.

        The library's own believes that the answer has the change, which it was told of later.
        """
        if (
            not self.should_query_keys
        ):  # nor any more: who sends asks, too, and may have had the answer before
            return KeysQueryResponse({}, {})
        meanwhile: set[str] = set()
        self._asking.append(meanwhile)
        try:
            return await super().keys_query()
        finally:
            self._asking.remove(meanwhile)
            self.olm.add_changed_users(meanwhile)

    def _handle_olm_events(self, response: Any) -> None:
        super()._handle_olm_events(response)
        for meanwhile in self._asking:
            meanwhile.update(self.olm.users_for_key_query.intersection(response.device_list.changed))

    async def send(self, method: str, path: str, *more: Any) -> Any:
        """Wait for a long poll beyond its end as long as for any other request: the library has 15 seconds for that."""
        data, headers, trace_context, timeout = more
        beyond = timeout and timeout + self.config.request_timeout
        return await super().send(method, path, data, headers, trace_context, beyond)


class Device:
    """A logged-in device and what it could read, or not."""

    def __init__(self, store: str, account: dict[str, str]) -> None:
        # Retries would hide an error of the server behind a second, luckier request.
        config = AsyncClientConfig(max_timeouts=0, max_limit_exceeded=0, request_timeout=60)
        self.client = Client(account["baseUrl"], account["user"], store_path=store, config=config)
        self.heard: list[str] = []
        self.problems: list[str] = []
        self._password = account["password"]
        self._news = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self.client.add_event_callback(self._read, RoomMessageText)
        self.client.add_event_callback(self._unreadable, MegolmEvent)
        self.client.add_response_callback(self._answered, (SyncResponse, SyncError, KeysQueryResponse))

    async def _read(self, _room: object, event: Any) -> None:
        self.heard.append(event.body)
        if not event.decrypted:
            self.problems.append(f"in the clear: {event.body}")

    async def _unreadable(self, _room: object, event: Any) -> None:
        self.problems.append(f"not to be read: {event.event_id}")

    async def _answered(self, response: object) -> None:
        if isinstance(response, SyncError):
            self.problems.append(f"sync: {response}")
        self._wake()

    def _wake(self, *_: object) -> None:
        self._news.set()
        self._news.clear()

    async def enter(self) -> None:
        """Log in, upload keys, and follow what happens from now on."""
        checked(await self.client.login(self._password))
        checked(await self.client.sync(timeout=0, full_state=True))
        self._loop = asyncio.create_task(self.client.sync_forever(timeout=30_000))
        self._loop.add_done_callback(self._wake)
        await self.until("its keys to be there", lambda: not self.client.should_upload_keys)

    async def until(self, what: str, look: Callable[[], object]) -> None:
        """Wait for syncs until `look()` is truthy."""
        assert self._loop is not None
        try:
            async with asyncio.timeout(PATIENCE):
                while not look():
                    if self._loop.done():
                        self._loop.result()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{self.client.device_id} waited for {what}: {self.problems}") from None

    async def say(self, room_id: str, text: str) -> None:
        """Send a message, encrypted for every device in the room."""
        content = {"msgtype": "m.text", "body": text}
        checked(
            await self.client.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True)
        )

    def has_heard(self, text: str) -> bool:
        """Whether the message was read."""
        return text in self.heard

    def sees_both(self, room_id: str) -> bool:
        """Whether it knows of two members of the room."""
        rooms = self.client.rooms
        return room_id in rooms and len(rooms[room_id].users) == 2

    def knows(self, user_id: str, device_id: str) -> bool:
        """Whether the keys of a device are here."""
        return any(device.id == device_id for device in self.client.device_store.active_user_devices(user_id))

    async def close(self) -> None:
        """Stop the sync loop and close the connections."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self.client.close()


async def gather(alice: Device, bob: Device) -> str:
    """Alice makes a private room, which nobody asked to be encrypted, and Bob joins."""
    made = checked(
        await alice.client.room_create(preset=RoomPreset.private_chat, invite=[bob.client.user_id])
    )
    room_id = str(made.room_id)
    await bob.until("the invitation", lambda: room_id in bob.client.invited_rooms)
    checked(await bob.client.join(room_id))
    for device in (alice, bob):
        await device.until("both members", partial(device.sees_both, room_id))
    saw("gathered", encrypted=[device.client.rooms[room_id].encrypted for device in (alice, bob)])
    return room_id


async def conversation(store: str, first: dict[str, str], second: dict[str, str]) -> None:
    """The whole scenario."""
    alice, bob, late = Device(store, first), Device(store, second), Device(store, second)
    try:
        await alice.enter()
        await bob.enter()
        room_id = await gather(alice, bob)
        await alice.until("Bob's keys", partial(alice.knows, bob.client.user_id, bob.client.device_id))
        await alice.say(room_id, "hello")
        await bob.until("hello", lambda: "hello" in bob.heard)
        await bob.until("Alice's keys", partial(bob.knows, alice.client.user_id, alice.client.device_id))
        await bob.say(room_id, "hello yourself")
        await alice.until("an answer", lambda: len(alice.heard) >= 2)
        await late.enter()
        late.problems.clear()  # what was said before it was there is not for it
        user_id, device_id = bob.client.user_id, late.client.device_id
        await alice.until("the late device's keys", lambda: alice.knows(user_id, device_id))
        await alice.say(room_id, "how many are you?")
        for device in (bob, late):
            await device.until("the question", partial(device.has_heard, "how many are you?"))
        for device in (alice, bob):
            await late.until("keys", partial(late.knows, device.client.user_id, device.client.device_id))
        await late.say(room_id, "two")
        for device in (alice, bob, late):  # what one says comes back to oneself last, at times
            await device.until("the answer", partial(device.has_heard, "two"))
        for name, device in (("alice", alice), ("bob", bob), ("late", late)):
            saw("heard", device=name, texts=device.heard, problems=device.problems)
    finally:
        for device in (alice, bob, late):
            await device.close()


if __name__ == "__main__":
    asyncio.run(conversation(sys.argv[1], *(json.loads(account) for account in sys.argv[2:4])))
