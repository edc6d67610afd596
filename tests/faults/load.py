# SPDX-License-Identifier: Apache-2.0
"""Clients that send into a room from threads, retrying like real ones, and remember what was acknowledged."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.serving import Account, ServerProcess

PATIENCE = 300.0
"""Seconds for which a client tries again: several starts of a server on a busy machine."""


@dataclass(slots=True)
class Record:
    """Transaction ids to the event ids they gave, over every attempt; written by several threads."""

    acknowledged: dict[str, set[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledge(self, transaction: str, event_id: str) -> None:
        with self.lock:
            self.acknowledged.setdefault(transaction, set()).add(event_id)

    def fail(self, reason: str) -> None:
        with self.lock:
            self.failures.append(reason)

    @property
    def count(self) -> int:
        with self.lock:
            return len(self.acknowledged)


def send_until_acknowledged(
    server: ServerProcess, account: Account, room_id: str, transaction: str, record: Record
) -> None:
    """Send one message, again and again with the same transaction id, until the server says it stands."""
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/{transaction}"
    body = {"msgtype": "m.text", "body": transaction}
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            answer = server.call("PUT", path, body, token=account.access_token)
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)  # the pause of a client whose server is away; nothing is synchronised by it
            continue
        if answer.status == 200:
            record.acknowledge(transaction, answer.body["event_id"])
            return
        if answer.status < 500:
            record.fail(f"{transaction}: {answer.status} {answer.body}")
            return
        time.sleep(0.05)
    record.fail(f"{transaction}: never acknowledged")


class Senders:
    """One thread per account, each sending its own numbered messages in order."""

    def __init__(
        self, targets: Sequence[tuple[ServerProcess, Account]], room_id: str, messages: int, label: str
    ) -> None:
        self.record = Record()
        self._threads = [
            threading.Thread(target=self._send_all, args=(server, account, room_id, messages, f"{label}-{n}"))
            for n, (server, account) in enumerate(targets)
        ]

    def _send_all(
        self, server: ServerProcess, account: Account, room_id: str, messages: int, label: str
    ) -> None:
        for n in range(messages):
            send_until_acknowledged(server, account, room_id, f"{label}-{n:04}", self.record)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> Record:
        for thread in self._threads:
            thread.join()
        return self.record


def all_messages(server: ServerProcess, account: Account, room_id: str) -> list[dict[str, Any]]:
    """Every message of the room, oldest first, by paginating."""
    found: list[dict[str, Any]] = []
    query = {"dir": "f", "limit": "200"}
    while True:
        answer = server.call(
            "GET",
            f"/_matrix/client/v3/rooms/{quote(room_id)}/messages",
            token=account.access_token,
            query=query,
        )
        assert answer.status == 200, answer.body
        found.extend(event for event in answer.body["chunk"] if event["type"] == "m.room.message")
        if "end" not in answer.body:
            return found
        query = {"dir": "f", "limit": "200", "from": answer.body["end"]}


def shared_room(server: ServerProcess, accounts: Sequence[Account]) -> str:
    """A public room of the first account that all the others have joined."""
    answer = server.call(
        "POST", "/_matrix/client/v3/createRoom", {"preset": "public_chat"}, token=accounts[0].access_token
    )
    assert answer.status == 200, answer.body
    room_id: str = answer.body["room_id"]
    for account in accounts[1:]:
        joined = server.call(
            "POST", f"/_matrix/client/v3/join/{quote(room_id)}", {}, token=account.access_token
        )
        assert joined.status == 200, joined.body
    return room_id


def assert_nothing_lost_or_doubled(
    record: Record, messages: Sequence[dict[str, Any]], label: str = ""
) -> None:
    """Each transaction gave one event id for ever, and the room holds exactly those events, in each sender's order."""
    assert record.failures == []
    assert all(len(ids) == 1 for ids in record.acknowledged.values())
    acknowledged = {next(iter(ids)): transaction for transaction, ids in record.acknowledged.items()}
    stored = [event["event_id"] for event in messages if event["content"]["body"].startswith(label)]
    assert len(stored) == len(set(stored))
    assert set(stored) == set(acknowledged)
    by_sender: dict[str, list[str]] = {}
    for event in messages:
        by_sender.setdefault(event["sender"], []).append(event["content"]["body"])
    for bodies in by_sender.values():
        assert bodies == sorted(bodies)
