# SPDX-License-Identifier: Apache-2.0
"""A conversation of two accounts through matrix-nio, run by the Python of the clients' environment.

    python -m tests.interop.nio_client http://127.0.0.1:8008 alice bob

Owns the scenario; judges nothing but that every request succeeded. It prints one JSON object per line,
`{"step": NAME, …what the client saw…}`, and exits with 0 after the last step; `test_nio.py` compares the
lines with what a server owes. It imports nothing of the project but the other nio scripts: its environment does not
hold the project's packages.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from nio import (
    AsyncClient,
    AsyncClientConfig,
    EphemeralEvent,
    Event,
    InviteMemberEvent,
    MessageDirection,
    ReceiptEvent,
    RedactionEvent,
    RoomMemberEvent,
    RoomMessageText,
    RoomPreset,
    SyncError,
    SyncResponse,
    TypingNoticeEvent,
)

from tests.interop.nio_encryption import PATIENCE, Client, checked, saw

Seen = TypeVar("Seen")

PASSWORD = "correct horse battery staple"


def texts(events: list[Any]) -> list[str]:
    """The bodies of the text messages among these."""
    return [event.body for event in events if isinstance(event, RoomMessageText)]


class Person:
    """One account, its client, and everything its sync loop has shown so far, in order."""

    def __init__(self, base_url: str, name: str) -> None:
        # Retries would hide an error of the server behind a second, luckier request.
        config = AsyncClientConfig(
            max_timeouts=0, max_limit_exceeded=0, request_timeout=60, encryption_enabled=False
        )
        self.name = name
        self.client = Client(base_url, name, config=config)
        self.events: list[Any] = []
        self.ephemeral: list[Any] = []
        self.left: set[str] = set()
        self._news = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._sync_error: object = None
        self.client.add_event_callback(self._event, (Event, InviteMemberEvent))
        self.client.add_ephemeral_callback(self._ephemeral, EphemeralEvent)
        self.client.add_response_callback(self._synced, (SyncResponse, SyncError))

    @property
    def user_id(self) -> str:
        """The full user id, once registered."""
        return str(self.client.user_id)

    async def _event(self, _room: object, event: object) -> None:
        self.events.append(event)

    async def _ephemeral(self, _room: object, event: object) -> None:
        self.ephemeral.append(event)

    async def _synced(self, response: object) -> None:
        if isinstance(response, SyncError):
            self._sync_error = response
        elif isinstance(response, SyncResponse):
            self.left.update(response.rooms.leave)
        self._wake()

    def _wake(self, *_: object) -> None:
        self._news.set()
        self._news.clear()

    def start_syncing(self) -> None:
        """Long-poll until `close`."""
        self._loop = asyncio.create_task(self.client.sync_forever(timeout=30_000))
        self._loop.add_done_callback(self._wake)

    async def until(self, what: str, look: Callable[[], Seen]) -> Seen:
        """Wait for syncs until `look()` is truthy, and return that; a failed sync ends the wait."""
        assert self._loop is not None
        try:
            async with asyncio.timeout(PATIENCE):
                while not (found := look()):
                    if self._loop.done():
                        self._loop.result()
                    if self._sync_error is not None:
                        raise AssertionError(f"{self.name} waited for {what}: {self._sync_error}")
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{self.name} waited in vain for {what}") from None
        return found

    def seen(self, kind: type, **attributes: object) -> list[Any]:
        """The events of a class seen so far whose attributes have these values."""
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and all(getattr(event, name) == value for name, value in attributes.items())
        ]

    async def stop_syncing(self) -> None:
        """End the sync loop, with the request it has open."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def close(self) -> None:
        """Stop the sync loop and close the connections."""
        await self.stop_syncing()
        await self.client.close()


async def enter(base_url: str, alice: Person, bob: Person) -> None:
    """Register both; Bob logs in once more on a device of its own; both start to sync."""
    for person in (alice, bob):
        made = checked(await person.client.register(person.name, PASSWORD, device_name="first"))
        saw("register", user_id=made.user_id, device_id=bool(made.device_id), token=bool(made.access_token))
    first = bob.client.device_id
    bob.client.device_id = ""
    made = checked(await bob.client.login(PASSWORD, device_name="second"))
    saw("login", user_id=made.user_id, new_device=made.device_id != first)
    whoami = checked(await bob.client.whoami())
    saw("whoami", user_id=whoami.user_id, same_device=whoami.device_id == made.device_id)
    stranger = AsyncClient(base_url, bob.name)
    refused = await stranger.login("wrong")
    saw("wrong password", errcode=refused.status_code)
    await stranger.close()
    alice.start_syncing()
    bob.start_syncing()


async def gather(alice: Person, bob: Person) -> str:
    """Alice makes a private room and invites Bob, who joins; returns the room's id."""
    made = checked(await alice.client.room_create(name="Ship", topic="Lares", preset=RoomPreset.private_chat))
    room_id = str(made.room_id)
    await alice.until("the room", lambda: room_id in alice.client.rooms)
    refused = await bob.client.join(room_id)
    saw("uninvited join", errcode=refused.status_code)
    checked(await alice.client.room_invite(room_id, bob.user_id))
    await bob.until("the invitation", lambda: room_id in bob.client.invited_rooms)
    invited = bob.client.invited_rooms[room_id]
    saw("invited", by=invited.inviter, name=invited.name)
    checked(await bob.client.join(room_id))
    joins = await alice.until(
        "the join", lambda: alice.seen(RoomMemberEvent, state_key=bob.user_id, membership="join")
    )
    await bob.until("the joined room", lambda: room_id in bob.client.rooms)
    room = bob.client.rooms[room_id]
    saw("joined", sender=joins[0].sender, name=room.name, topic=room.topic, members=sorted(room.users))
    return room_id


async def talk(alice: Person, bob: Person, room_id: str) -> list[str]:
    """Alice sends ten messages while Bob's long-poll is open; returns their event ids."""
    sent = []
    for number in range(10):
        content = {"msgtype": "m.text", "body": f"message {number}"}
        answer = checked(await alice.client.room_send(room_id, "m.room.message", content, tx_id=f"t{number}"))
        sent.append(str(answer.event_id))
    again = checked(await alice.client.room_send(room_id, "m.room.message", content, tx_id="t9"))
    await bob.until("ten messages", lambda: len(bob.seen(RoomMessageText)) >= 10)
    messages = bob.seen(RoomMessageText)
    saw(
        "received",
        bodies=[message.body for message in messages],
        senders=sorted({message.sender for message in messages}),
        same_ids=[message.event_id for message in messages] == sent,
        repeated_is_same=again.event_id == sent[-1],
    )
    await alice.until("her own messages", lambda: len(alice.seen(RoomMessageText)) >= 10)
    return sent


async def look_back(bob: Person, room_id: str, sent: list[str]) -> None:
    """Bob pages back from now to the room's creation, four events at a time, and forward again."""
    bodies, types = [], []
    tokens: list[str | None] = [bob.client.next_batch]
    while tokens[-1] is not None:
        page = checked(await bob.client.room_messages(room_id, tokens[-1], limit=4))
        bodies += texts(page.chunk)
        types += [event.source["type"] for event in page.chunk]
        tokens.append(page.end)
    saw("backwards", bodies=bodies, first=types[-1], several_pages=len(tokens) > 4)
    ahead = checked(
        await bob.client.room_messages(room_id, tokens[1], direction=MessageDirection.front, limit=10)
    )
    around = checked(await bob.client.room_context(room_id, sent[5], limit=4))
    saw(
        "forwards",
        bodies=texts(ahead.chunk),
        context=[texts(around.events_before), around.event.body, texts(around.events_after)],
    )


async def redact(alice: Person, bob: Person, room_id: str, event_id: str) -> None:
    """Alice redacts a message; Bob sees it go, live and when he asks for the event."""
    checked(await alice.client.room_redact(room_id, event_id, reason="typo"))
    seen = await bob.until("the redaction", lambda: bob.seen(RedactionEvent))
    event = checked(await bob.client.room_get_event(room_id, event_id)).event
    saw(
        "redacted",
        target=seen[0].redacts == event_id,
        reason=seen[0].reason,
        now=type(event).__name__,
        content=event.source["content"],
    )


async def signal(alice: Person, bob: Person, room_id: str, event_id: str) -> None:
    """Typing on and off, and a read receipt, each seen by the other."""

    def typing() -> list[list[str]]:
        return [event.users for event in bob.ephemeral if isinstance(event, TypingNoticeEvent)]

    checked(await alice.client.room_typing(room_id, True, 60_000))
    await bob.until("typing", lambda: [alice.user_id] in typing())
    checked(await alice.client.room_typing(room_id, False))
    await bob.until("the end of typing", lambda: typing()[-1] == [])
    saw("typing", users=typing()[0], then=typing()[-1])

    def receipts() -> list[Any]:
        every = [r for event in alice.ephemeral if isinstance(event, ReceiptEvent) for r in event.receipts]
        return [receipt for receipt in every if receipt.user_id == bob.user_id]

    checked(await bob.client.room_read_markers(room_id, event_id, event_id))
    unthreaded = (await alice.until("a receipt", receipts))[0]
    checked(await bob.client.update_receipt_marker(room_id, event_id, thread_id="main"))
    threaded = await alice.until(
        "a threaded receipt", lambda: [receipt for receipt in receipts() if receipt.thread_id == "main"]
    )
    await bob.until("the marker", lambda: bob.client.rooms[room_id].fully_read_marker == event_id)
    saw(
        "receipts",
        events=[unthreaded.event_id == event_id, threaded[0].event_id == event_id],
        types=[unthreaded.receipt_type, threaded[0].receipt_type],
        threads=[unthreaded.thread_id, threaded[0].thread_id],
    )


async def change(alice: Person, bob: Person, room_id: str) -> None:
    """A display name that reaches the room, and state set and read."""
    checked(await alice.client.set_displayname("Alice the First"))
    renamed = await bob.until(
        "the new name",
        lambda: [e for e in bob.seen(RoomMemberEvent) if e.content.get("displayname") == "Alice the First"],
    )
    profile = checked(await bob.client.get_profile(alice.user_id))
    saw(
        "display name",
        member=renamed[0].state_key,
        in_room=bob.client.rooms[room_id].user_name(alice.user_id),
        profile=profile.displayname,
    )
    checked(await alice.client.room_put_state(room_id, "m.room.topic", {"topic": "Penates"}))
    await bob.until("the topic", lambda: bob.client.rooms[room_id].topic == "Penates")
    refused = await bob.client.room_put_state(room_id, "m.room.name", {"name": "Mine"})
    state = checked(await bob.client.room_get_state(room_id)).events
    name = checked(await bob.client.room_get_state_event(room_id, "m.room.name")).content
    members = checked(await bob.client.joined_members(room_id)).members
    saw(
        "state",
        types=sorted({event["type"] for event in state}),
        name=name,
        members=sorted(member.user_id for member in members),
        without_power=refused.status_code,
    )


async def part(alice: Person, bob: Person, room_id: str) -> None:
    """Bob leaves and forgets the room; both log out and their tokens are dead."""
    checked(await bob.client.room_leave(room_id))
    await alice.until(
        "the leave", lambda: alice.seen(RoomMemberEvent, state_key=bob.user_id, membership="leave")
    )
    await bob.until("his own leave", lambda: room_id in bob.left)
    content = {"msgtype": "m.text", "body": "still here?"}
    refused = await bob.client.room_send(room_id, "m.room.message", content)
    checked(await bob.client.room_forget(room_id))
    saw("left", members=sorted(alice.client.rooms[room_id].users), send=refused.status_code)
    for person in (alice, bob):
        token = person.client.access_token
        await person.stop_syncing()
        checked(await person.client.logout())
        person.client.access_token = token
        refused = await person.client.whoami()
        saw("logout", errcode=refused.status_code, soft=bool(refused.soft_logout))


async def conversation(base_url: str, first: str, second: str) -> None:
    """The whole scenario."""
    alice, bob = Person(base_url, first), Person(base_url, second)
    try:
        await enter(base_url, alice, bob)
        room_id = await gather(alice, bob)
        sent = await talk(alice, bob, room_id)
        await look_back(bob, room_id, sent)
        await redact(alice, bob, room_id, sent[3])
        await signal(alice, bob, room_id, sent[-1])
        await change(alice, bob, room_id)
        await part(alice, bob, room_id)
    finally:
        await alice.close()
        await bob.close()


if __name__ == "__main__":
    asyncio.run(conversation(*sys.argv[1:4]))
