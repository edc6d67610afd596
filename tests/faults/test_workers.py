# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of one worker after another under load: what was acknowledged stands, and whoever listens hears it once."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

from tests.app.looking import figures
from tests.faults.load import Senders, all_messages, assert_nothing_lost_or_doubled, shared_room
from tests.serving import Account, ServerProcess, serving
from tests.waiting import wait_until

WORKERS = 3
KILLS = 5
MESSAGES = 80


class Listener(threading.Thread):
    """A client that follows a room by long-polls, asks again after every failure, and keeps what it was told."""

    def __init__(self, server: ServerProcess, account: Account, room_id: str) -> None:
        super().__init__(daemon=True)
        self.heard: list[str] = []
        self.gaps = 0
        self.failures: list[str] = []
        self._server = server
        self._account = account
        self._room_id = room_id
        self._filter = json.dumps({"room": {"timeline": {"limit": 1000}}})
        self._since: str = self._sync({})["next_batch"]

    def run(self) -> None:
        while True:
            try:
                answer = self._sync({"since": self._since, "timeout": "5000"})
            except (OSError, http.client.HTTPException):
                continue  # the worker was killed; the same token again, at another
            except AssertionError as error:
                self.failures.append(str(error))
                return
            timeline = answer.get("rooms", {}).get("join", {}).get(self._room_id, {}).get("timeline", {})
            self.gaps += timeline.get("limited", False)
            self.heard += [e["event_id"] for e in timeline.get("events", ()) if e["type"] == "m.room.message"]
            self._since = answer["next_batch"]

    def _sync(self, query: dict[str, str]) -> Any:
        answer = self._server.call(
            "GET",
            "/_matrix/client/v3/sync",
            token=self._account.access_token,
            query={"filter": self._filter, **query},
        )
        assert answer.status == 200, (answer.status, answer.body)
        return answer.body


def test_killed_workers_lose_nothing(tmp_path: Path) -> None:
    """Clients retry with the same transaction ids: every message once, in the room and for a listener."""
    with serving(tmp_path, workers=WORKERS) as server:
        accounts = [server.register(name) for name in ("alice", "bob", "carol", "dave")]
        room_id = shared_room(server, accounts)
        listener = Listener(server, accounts[3], room_id)
        listener.start()
        senders = Senders([(server, account) for account in accounts[:3]], room_id, MESSAGES, "m")
        senders.start()
        killed: set[int] = set()
        for n in range(1, KILLS + 1):
            enough = n * 3 * MESSAGES // (KILLS + 1)
            wait_until(lambda enough=enough: senders.record.count >= enough, "messages are acknowledged")  # type: ignore[misc]
            wait_until(lambda: bool(set(server.worker_pids()) - killed), "there is a worker")
            killed.add(_kill_one(set(server.worker_pids()) - killed))
        record = senders.join()
        messages = all_messages(server, accounts[0], room_id)
        assert_nothing_lost_or_doubled(record, messages)
        assert record.count == 3 * MESSAGES
        wait_until(
            lambda: len(listener.heard) >= len(messages) or bool(listener.failures), "all of it is heard"
        )
        assert (listener.failures, listener.gaps) == ([], 0)
        assert listener.heard == [event["event_id"] for event in messages]
        died = "a worker died: it ended by SIGKILL"
        wait_until(lambda: server.log().count(died) >= KILLS, "all deaths were noticed")
        wait_until(lambda: figures(server)["lares_workers"] == WORKERS, "all workers serve again")
        assert server.log().count(died) == KILLS


def _kill_one(pids: set[int]) -> int:
    """Any of them; tells which, since it may be seen for a moment more."""
    victim = random.choice(sorted(pids))
    os.kill(victim, signal.SIGKILL)
    return victim
