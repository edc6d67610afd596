# SPDX-License-Identifier: Apache-2.0
"""Messages to devices: taken once, kept in order, delivered until the device says that it has them.

Client-server API, "Send-to-Device messaging". Owns limits, and the way to devices of this server and of others; who may
write to whom is not limited: only the receiving client knows what a message is worth.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import orjson
from msgspec import Struct
from twisted.internet.defer import DeferredSemaphore

from homeserver.devices.news import DeviceNews
from homeserver.devices.remote import JsonObject, MessagesOut, RemoteDevices
from homeserver.devices.writing import Committer
from homeserver.errors import BadJson, InvalidParam, TooLarge
from homeserver.protocol.canonical_json import check_canonical
from homeserver.protocol.errors import CanonicalJsonError
from storage.to_device import ToDeviceStore

PAGE: Final = 100
"""Messages in one response."""
MOST_TARGETS: Final = 10_000
"""Devices of one request."""
MAX_MESSAGE_BYTES: Final = 65_536
MAX_TYPE_BYTES: Final = 255
_MOST_MESSAGES, _MOST_BYTES = 250, 524_288
"""Of one position: others wait for its commit, and its notifications name every recipient."""
_MOST_COMMITS: Final = 16
"""Positions that are waiting for one commit."""
_KEPT_MS: Final = 7 * 86_400_000
"""How long a request is remembered, that a repetition be recognised."""
_CAPACITY: Final = 50_000

Messages = Mapping[str, Mapping[str, JsonObject]]
"""User → device or `*` → content."""
_Message = tuple[str, str, bytes]
"""User, device, the content as JSON."""


class _Letter(NamedTuple):
    """What is kept at one position."""

    sender: str
    type: str
    messages: Sequence[_Message]


class Waiting(Struct, frozen=True):
    """The next messages of a device, each as JSON."""

    messages: Sequence[str]
    told: int
    """There are more, beyond this position; 0: there are not."""


NOTHING = Waiting((), 0)


class ToDevice:
    """One per process."""

    def __init__(
        self,
        *,
        origin: str,
        store: ToDeviceStore,
        news: DeviceNews,
        committer: Committer,
        remote: RemoteDevices,
        is_local: Callable[[str], bool],
        now: Callable[[], int],
        capacity: int = _CAPACITY,
    ) -> None:
        """`capacity`: of how many devices it is remembered what they have."""
        self._origin = origin
        self._capacity = capacity
        self._store = store
        self._news = news
        self._committer = committer
        self._remote = remote
        self._is_local = is_local
        self._now = now
        self._commits = DeferredSemaphore(_MOST_COMMITS)
        # Device → up to where it is known to have everything; least recently used first.
        self._acknowledged: OrderedDict[tuple[str, str], int] = OrderedDict()

    @property
    def size(self) -> int:
        """Devices of which it is remembered what they have."""
        return len(self._acknowledged)

    # Sending.

    async def send(self, sender: str, event_type: str, messages: Messages, transaction: str) -> None:
        """Send one message to each device, once for the transaction (a digest, as a UUID).

        Devices that do not exist are passed over. Raises InvalidParam, BadJson, TooLarge: nothing is sent then.
        """
        check_messages(event_type, messages)
        local: Messages = messages
        others: Messages = {}
        if not all(map(self._is_local, messages)):
            others = {each: messages[each] for each in messages if not self._is_local(each)}
            local = {each: messages[each] for each in messages if each not in others}
            _check_for_servers(others)
        encoded = _encoded(sender, event_type, local)
        note = bool(others)
        if note:
            if await self._store.is_done(transaction):
                return
            # Before our own, with which the transaction is noted: if this fails in between, all of it is repeated, and
            # the other servers know the messages again.
            await self._remote.send(MessagesOut(sender, event_type, transaction, others))
        # As values they take many times the bytes, and their commits may have to wait.
        del messages, local, others
        await self._keep(sender, event_type, encoded, transaction, note=note)

    async def receive(
        self, server_name: str, message_id: str, sender: str, event_type: str, messages: Messages
    ) -> None:
        """Messages from another server, whose user the sender is known to be. Raises as `send`."""
        check_messages(event_type, messages)
        local = {each: devices for each, devices in messages.items() if self._is_local(each)}
        encoded = _encoded(sender, event_type, local)
        await self._keep(sender, event_type, encoded, digest("edu", server_name, message_id), note=False)

    async def _keep(
        self, sender: str, event_type: str, encoded: Sequence[_Message], transaction: str, *, note: bool
    ) -> None:
        # Those for all devices of a user apart, since a device has one message of a position.
        everywhere = [each for each in encoded if each[1] == "*"]
        named = [each for each in encoded if each[1] != "*"] if everywhere else encoded
        portions = [*_portions(named), *_portions(everywhere)]
        if note and not portions:
            portions.append([])
        for number, portion in enumerate(portions, 1):
            # The last one notes the whole: a request that was cut short in between is carried out again.
            part = transaction if number == len(portions) else digest(transaction, str(number))
            await self._commit(_Letter(sender, event_type, portion), part)

    async def _commit(self, letter: _Letter, transaction: str) -> None:
        portion = letter.messages
        names = [user_id for user_id, _, _ in portion]
        users = set(names)
        row = {
            "origin": self._origin,
            "transaction": transaction,
            "ts": self._now(),
            "users": names,
            "devices": [device_id for _, device_id, _ in portion],
            "contents": _array([content for _, _, content in portion]),
            "sender": letter.sender,
            "type": letter.type,
        }

        def landed(before: int) -> Iterable[str]:
            return self._news.messages_landed(users, before + 1)

        await self._commits.run(lambda: self._committer.write("device_messages", [row], landed=landed))

    # Delivering.

    async def waiting(self, user_id: str, device_id: str, since: int, upto: int) -> Waiting:
        """The oldest messages in since < position ≤ upto, a page of them. No query if there can be none."""
        if self.none_since(user_id, since, upto):
            return NOTHING
        rows = await self._store.waiting(user_id, device_id, since, upto, PAGE + 1)
        if len(rows) > PAGE:
            return Waiting([row.message for row in rows[:PAGE]], rows[PAGE - 1].position)
        return Waiting([row.message for row in rows], 0)

    def none_since(self, user_id: str, since: int, upto: int) -> bool:
        """Whether memory tells that no message came in since < position ≤ upto."""
        return since >= upto or (since > 0 and not self._news.messages.may_have_changed(user_id, since))

    def is_acknowledged(self, user_id: str, device_id: str, position: int) -> bool:
        """Whether memory tells that there is no message up to the position."""
        key = (user_id, device_id)
        done = self._acknowledged.get(key)
        if done is None or (done < position and self._news.messages.may_have_changed(user_id, done)):
            return False
        self._acknowledged.move_to_end(key)
        return True

    async def acknowledge(self, user_id: str, device_id: str, position: int) -> None:
        """The device has every message up to the position: they are deleted."""
        if self.is_acknowledged(user_id, device_id, position):
            return
        key = (user_id, device_id)
        await self._store.delete(user_id, device_id, position)
        self._acknowledged[key] = max(position, self._acknowledged.get(key, 0))
        self._acknowledged.move_to_end(key)
        while len(self._acknowledged) > self._capacity:
            self._acknowledged.popitem(last=False)

    async def sweep(self) -> None:
        """Forget requests that are too old to be repeated."""
        await self._store.sweep(self._now() - _KEPT_MS)


def check_messages(event_type: str, messages: Messages) -> None:
    """Raise InvalidParam, BadJson or TooLarge for what cannot be sent to devices."""
    if "\0" in event_type or not event_type:
        raise InvalidParam("That cannot be the type of a message")
    if len(event_type.encode()) > MAX_TYPE_BYTES:
        raise TooLarge(f"A type is at most {MAX_TYPE_BYTES} bytes")
    if sum(map(len, messages.values())) > MOST_TARGETS:
        raise TooLarge(f"A message can be sent to at most {MOST_TARGETS} devices at once")
    for user_id, devices in messages.items():
        if "\0" in user_id or "\0" in "".join(devices):
            raise InvalidParam("An id contains NUL")
        for content in devices.values():
            if type(content) is not dict:
                raise BadJson("The content of a message must be an object")


def _check_for_servers(messages: Messages) -> None:
    """Raise BadJson for what no request between servers can hold, since it could not be signed."""
    try:
        check_canonical(messages)
    except CanonicalJsonError as error:
        raise BadJson(
            f"Messages to users of other servers must be canonical JSON, without fractions: {error}"
        ) from error


def digest(*parts: str) -> str:
    """A UUID that stands for those texts."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return str(uuid.UUID(bytes=blake2b(text, digest_size=16).digest()))


def _encoded(sender: str, event_type: str, messages: Messages) -> Sequence[_Message]:
    """Each content as JSON. Raises BadJson, and TooLarge for one whose message would be too long."""
    around = {"content": {}, "sender": sender, "type": event_type}
    most = MAX_MESSAGE_BYTES - len(orjson.dumps(around)) + len("{}")
    try:
        encoded = [
            (user_id, device_id, orjson.dumps(content))
            for user_id, devices in messages.items()
            for device_id, content in devices.items()
        ]
    except TypeError as error:  # of another server's JSON: integers beyond 64 bits
        raise BadJson("A message holds a number that cannot be passed on") from error
    if encoded and max(len(content) for _, _, content in encoded) > most:
        raise TooLarge(f"A message is at most {MAX_MESSAGE_BYTES} bytes")
    return encoded


def _array(contents: Sequence[bytes]) -> orjson.Fragment:
    """Contents within a commit's JSON: as they are, or as texts if they hold what Postgres takes in no other form."""
    joined = b",".join(contents)
    if b"\\" in joined and b"\\u0000" in joined:  # the first is found much faster, and hardly ever
        joined = b",".join(orjson.dumps(each.decode()) if b"\\u0000" in each else each for each in contents)
    return orjson.Fragment(b"[%b]" % joined)


def _portions(messages: Sequence[_Message]) -> Iterator[Sequence[_Message]]:
    if len(messages) <= _MOST_MESSAGES and sum(len(content) for _, _, content in messages) <= _MOST_BYTES:
        if messages:
            yield messages
        return
    portion: list[_Message] = []
    size = 0
    for message in messages:
        weight = len(message[2])
        if portion and (len(portion) >= _MOST_MESSAGES or size + weight > _MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(message)
        size += weight
    if portion:
        yield portion
