# SPDX-License-Identifier: Apache-2.0
"""What processes tell each other of presence: JSON of at most 7,900 bytes, the limit of a notification being 8,000.

`{"origin": …, "at": …, "hello": true, "gone": […],
"people": [[user id, state, last active, status, manual, set at, name, avatar, named at], …]}`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson
from msgspec import Struct

from homeserver.presence.person import Choice, Names, Report, View

LIMIT = 7900


class Message(Struct, frozen=True):
    """One notification. `at` is what the sender proposes as its serial, `reports` are by user.

    `hello`: the sender is new, or missed something, and asks for all. `gone`: processes not heard of for long.
    """

    origin: str
    at: int
    hello: bool
    gone: Sequence[str]
    reports: Sequence[tuple[str, Report]]


class Sender(Struct, frozen=True):
    """Puts messages of a process into words. `propose` gives the serial to propose."""

    origin: str
    propose: Callable[[], int]

    def hello(self) -> str:
        return self._payload(hello=True)

    def gone(self, origins: Sequence[str]) -> str:
        return self._payload(gone=origins)

    def reports(self, people: Iterable[tuple[str, Report]]) -> Iterator[str]:
        """As many payloads as it takes, at least one."""
        batch: list[orjson.Fragment] = []
        size = 0
        for user_id, report in people:
            row = orjson.dumps([user_id, *report.view, *report.choice, *report.names])
            if size + len(row) + 200 > LIMIT and batch:
                yield self._payload(people=batch)
                batch, size = [], 0
            batch.append(orjson.Fragment(row))
            size += len(row) + 1
        yield self._payload(people=batch)

    def _payload(self, **what: Any) -> str:
        return orjson.dumps({"origin": self.origin, "at": self.propose(), **what}).decode()


def decode(payload: str) -> Message:
    """The message in a notification."""
    message: dict[str, Any] = orjson.loads(payload)
    reports = [
        (user_id, Report(View(state, active), Choice(status, manual, set_at), Names(name, avatar, named_at)))
        for user_id, state, active, status, manual, set_at, name, avatar, named_at in message.get(
            "people", ()
        )
    ]
    return Message(
        message["origin"], message["at"], message.get("hello", False), message.get("gone", ()), reports
    )
