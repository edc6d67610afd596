# SPDX-License-Identifier: Apache-2.0
"""What processes tell each other of presence: JSON of at most 7,900 bytes, the limit of a notification being 8,000.

`{"origin": …, "hello": true, "people": [[user id, state, last active, status, manual, set at, name, avatar], …]}`
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
from msgspec import Struct

from homeserver.presence.person import Choice, Person, View

LIMIT = 7900


class Report(Struct, frozen=True):
    """What a process knows of one user."""

    user_id: str
    view: View
    choice: Choice
    displayname: str | None
    avatar_url: str | None


class Message(Struct, frozen=True):
    """One notification. `hello`: the sender is new and knows of nobody."""

    origin: str
    hello: bool
    reports: Sequence[Report]


def encode(origin: str, people: Iterable[tuple[Person, View]], *, hello: bool = False) -> Iterator[str]:
    """As many payloads as it takes, at least one."""
    batch: list[bytes] = []
    size = 0
    for person, view in people:
        row = orjson.dumps([person.user_id, *view, *person.choice, person.displayname, person.avatar_url])
        if size + len(row) + 200 > LIMIT and batch:
            yield _payload(origin, batch, hello)
            batch, size, hello = [], 0, False
        batch.append(row)
        size += len(row) + 1
    yield _payload(origin, batch, hello)


def _payload(origin: str, rows: list[bytes], hello: bool) -> str:
    return orjson.dumps(
        {"origin": origin, "hello": hello, "people": [orjson.Fragment(row) for row in rows]}
    ).decode()


def decode(payload: str) -> Message:
    """The message in a notification."""
    message: dict[str, Any] = orjson.loads(payload)
    reports = [
        Report(user_id, View(state, active), Choice(status, manual, set_at), name, avatar)
        for user_id, state, active, status, manual, set_at, name, avatar in message["people"]
    ]
    return Message(message["origin"], message["hello"], reports)
