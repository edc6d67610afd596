# SPDX-License-Identifier: Apache-2.0
"""Where the rest of the server leaves ephemeral units for other servers.

Those to be kept wait in the database until they arrive; fleeting ones are sent now or never. A unit that has no
canonical form, or is too large, is dropped here with a line in the log, so that nothing behind it is held up. Servers
that another process serves are handed to it by a notification.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import orjson
from msgspec import Struct
from twisted.internet.defer import Deferred

from federation.outbound.transaction import Edu
from homeserver.needs import Protocol
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.errors import CanonicalJsonError
from homeserver.protocol.identifiers import is_valid_server_name
from storage.outbound_shards import CHANNEL
from storage.outgoing_edus import NewEdu

logger = logging.getLogger(__name__)

MOST_BYTES = 2**20
"""Of one unit."""
MOST_TOLD = 7900
"""Bytes of a notification, whose limit is 8,000."""
TRIM_EVERY = 100
MOST_UNTOLD = 2000
"""Notifications that wait; of more, the oldest are dropped."""
TOLD_AT_ONCE = 100

Notify = Callable[[str, Sequence[str]], Awaitable[object]]
"""`notify(channel, payloads)`: tells all processes, this one too."""


class OutgoingEdu(Struct, frozen=True):
    """A unit for one server (server-server API, "EDUs")."""

    destination: str
    edu_type: str
    content: Mapping[str, Any]
    key: str | None = None
    """A newer one of the same destination, type and key takes its place."""


class EduStore(Protocol):
    """What is needed of `storage.outgoing_edus.OutgoingEduStore`."""

    async def add(self, edus: Sequence[NewEdu]) -> None: ...
    async def trim(self, server_names: Collection[str]) -> int: ...


class Queues(Protocol):
    """What is needed of the sender."""

    def serves(self, destination: str) -> bool: ...
    def kept(self, destinations: Iterable[str]) -> None: ...
    def pass_on(self, destination: str, key: tuple[str, str], edu: Edu) -> None: ...


class Availability(Protocol):
    def is_well(self, destination: str) -> bool: ...
    def may_try(self, destination: str) -> bool: ...


class Outbox:
    """One per process."""

    def __init__(
        self,
        *,
        server_name: str,
        origin: str,
        store: EduStore,
        queues: Queues,
        availability: Availability,
        notify: Notify,
    ) -> None:
        """`origin` names this process; `heard` must be called with what the channel `outbound` says."""
        self._server_name = server_name
        self._origin = origin
        self._store = store
        self._queues = queues
        self._availability = availability
        self._notify = notify
        self._adds = 0
        self._serial = count(1)
        self._untold: deque[str] = deque(maxlen=MOST_UNTOLD)
        self._telling: Deferred[None] | None = None

    async def keep(self, edus: Sequence[OutgoingEdu]) -> None:
        """Have the units delivered, at least once, to each server in this order. Durable when it returns."""
        new: dict[object, NewEdu] = {}
        encoded: dict[int, str | None] = {}
        for number, edu in enumerate(edus):
            content = self._encoded(edu, encoded)
            if content is None:
                continue
            place = number if edu.key is None else (edu.destination, edu.edu_type, edu.key)
            new.pop(place, None)
            new[place] = NewEdu(edu.destination, edu.edu_type, edu.key, content)
        if not new:
            return
        await self._store.add(list(new.values()))
        names = {edu.server_name for edu in new.values()}
        await self._trim(names)
        self._queues.kept(names)
        elsewhere = sorted(name for name in names if not self._queues.serves(name))
        if elsewhere:
            await self._notify(CHANNEL, list(_payloads({"origin": self._origin}, "kept", elsewhere)))

    def pass_on(self, edus: Sequence[OutgoingEdu]) -> None:
        """Send the units soon, if their servers can be reached now. One without a key stands for itself."""
        encoded: dict[int, str | None] = {}
        elsewhere: dict[tuple[str, str, str], list[str]] = {}
        for edu in edus:
            content = self._encoded(edu, encoded)
            if content is None:
                continue
            key = f"\0{self._origin}{next(self._serial)}" if edu.key is None else edu.key
            if self._queues.serves(edu.destination):
                self._queues.pass_on(edu.destination, (edu.edu_type, key), Edu(edu.edu_type, content))
            elif self._availability.may_try(edu.destination):
                elsewhere.setdefault((edu.edu_type, key, content), []).append(edu.destination)
        for unit, names in elsewhere.items():
            # Numbered, since of what is told at once Postgres drops what was said already.
            base = {"origin": self._origin, "n": next(self._serial), "unit": unit}
            self._untold.extend(_payloads(base, "to", names))
        self._tell_soon()

    def heard(self, message: Mapping[str, Any]) -> None:
        """A message of the channel `outbound`."""
        if message.get("origin") == self._origin:
            return
        if "kept" in message:
            self._queues.kept(message["kept"])
        if "unit" in message:
            edu_type, key, content = message["unit"]
            for name in message["to"]:
                self._queues.pass_on(name, (edu_type, key), Edu(edu_type, content))

    def _encoded(self, edu: OutgoingEdu, encoded: dict[int, str | None]) -> str | None:
        """Its content as canonical JSON; None if it can't be sent. One content for many servers is encoded once: those
        that were are in `encoded`, by identity.
        """
        if edu.destination == self._server_name:
            return None
        if not is_valid_server_name(edu.destination) or not _is_storable(f"{edu.edu_type}{edu.key}"):
            return self._unsendable(edu, "its destination, type or key")
        if id(edu.content) not in encoded:
            encoded[id(edu.content)] = self._canonical(edu)
        return encoded[id(edu.content)]

    def _canonical(self, edu: OutgoingEdu) -> str | None:
        try:
            content = encode_canonical(dict(edu.content))
        except CanonicalJsonError as error:
            return self._unsendable(edu, str(error))
        if len(content) > MOST_BYTES:
            return self._unsendable(edu, f"{len(content)} bytes")
        return content.decode()

    @staticmethod
    def _unsendable(edu: OutgoingEdu, reason: str) -> None:
        fields = {"destination": edu.destination, "edu_type": edu.edu_type, "reason": reason}
        logger.warning("a unit that no server could take is not sent", extra={"fields": fields})

    async def _trim(self, names: Collection[str]) -> None:
        """Bound what waits for a server that is away; now and then also for those that are not known to be."""
        self._adds += 1
        suspects = [
            name for name in names if not self._adds % TRIM_EVERY or not self._availability.is_well(name)
        ]
        dropped = await self._store.trim(suspects) if suspects else 0
        if dropped:
            fields = {"destinations": len(suspects), "dropped": dropped}
            logger.warning("too much waits for servers that are away", extra={"fields": fields})

    def _tell_soon(self) -> None:
        """One telling at a time: of two on different connections the newer might be heard first."""
        if not self._untold or self._telling is not None:
            return
        telling = self._telling = Deferred.fromCoroutine(self._tell())

        def told(_result: object) -> None:
            self._telling = None
            self._tell_soon()

        telling.addBoth(told)

    async def _tell(self) -> None:
        payloads = [self._untold.popleft() for _ in range(min(len(self._untold), TOLD_AT_ONCE))]
        try:
            await self._notify(CHANNEL, payloads)
        except Exception:
            logger.warning("ephemeral units were not handed to other processes", exc_info=True)


def _is_storable(text: str) -> bool:
    """Whether the database has such a text: no NUL, no half characters."""
    return "\0" not in text and text.encode(errors="ignore").decode() == text


def _payloads(base: Mapping[str, Any], name: str, values: Sequence[str]) -> Iterator[str]:
    """Messages of bounded size with all the values; nothing if the rest alone is too large."""
    room = MOST_TOLD - len(orjson.dumps({**base, name: []}))
    portion: list[str] = []
    size = 0
    for value in values:
        length = len(orjson.dumps(value)) + 1
        if portion and size + length > room:
            yield orjson.dumps({**base, name: portion}).decode()
            portion, size = [], 0
        if length <= room:
            portion.append(value)
            size += length
    if portion:
        yield orjson.dumps({**base, name: portion}).decode()
