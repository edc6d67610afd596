# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of the server in a stream of messages to devices: each arrives, in order, and none again once it is had."""

from __future__ import annotations

import http.client
import threading
import time
from pathlib import Path
from typing import Any

from tests.faults.load import PATIENCE
from tests.serving import Account, ServerProcess, serving
from tests.waiting import wait_until

ROUNDS = 2
MESSAGES = 160
FORGETFUL = 4
"""Every so many responses that brought messages, beginning with the first, the device dies before it has kept the
token, and asks again from the one before."""


class Device(threading.Thread):
    """A device that follows `/sync`, and comes back after whatever happens."""

    def __init__(self, server: ServerProcess, token: str, wanted: int) -> None:
        super().__init__()
        self._server = server
        self._token = token
        self._wanted = wanted
        self.kept: list[int] = []
        self.seen_before_dying: list[int] = []
        self.failures: list[str] = []

    def run(self) -> None:
        query, brought = {"timeout": "2000"}, 0
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            answer = self._sync(query)
            if answer is None:
                continue
            numbers = [event["content"]["n"] for event in answer.get("to_device", {"events": []})["events"]]
            brought += bool(numbers)
            if numbers and brought % FORGETFUL == 1:
                self.seen_before_dying += numbers
                continue
            self.kept += numbers
            query["since"] = answer["next_batch"]
            if len(self.kept) >= self._wanted and not numbers:
                return
        self.failures.append("never got everything")

    def _sync(self, query: dict[str, str]) -> dict[str, Any] | None:
        if len(self.kept) >= self._wanted:
            query["timeout"] = "0"  # one more look, whether something comes twice
        try:
            answer = self._server.call("GET", "/_matrix/client/v3/sync", token=self._token, query=query)
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)  # the pause of a client whose server is away; nothing is synchronised by it
            return None
        if answer.status != 200:
            if answer.status < 500:
                self.failures.append(f"{answer.status} {answer.body}")
            time.sleep(0.05)
            return None
        body: dict[str, Any] = answer.body
        return body


class Sender(threading.Thread):
    """Sends numbers to all devices of a user, one after the other, each until it is acknowledged."""

    def __init__(self, server: ServerProcess, account: Account, target: str) -> None:
        super().__init__()
        self._server = server
        self._account = account
        self._target = target
        self.acknowledged = 0
        self.failures: list[str] = []

    def run(self) -> None:
        for n in range(MESSAGES):
            self._send(n)

    def _send(self, n: int) -> None:
        path = f"/_matrix/client/v3/sendToDevice/org.example.numbered/t{n}"
        body = {"messages": {self._target: {"*": {"n": n}}}}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                answer = self._server.call("PUT", path, body, token=self._account.access_token)
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)  # as above
                continue
            if answer.status == 200:
                self.acknowledged += 1
                return
            if answer.status < 500:
                break
            time.sleep(0.05)
        self.failures.append(f"{n} was never acknowledged")


def test_messages_to_devices_survive(tmp_path: Path) -> None:
    """A device that keeps its tokens gets each message once and in order; what it did not keep comes again."""
    with serving(tmp_path) as server:
        alice, bob = server.register("alice"), server.register("bob")
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "bob"},
            "password": bob.password,
        }
        second = server.call("POST", "/_matrix/client/v3/login", login).body["access_token"]
        devices = [Device(server, token, MESSAGES) for token in (bob.access_token, second)]
        sender = Sender(server, alice, bob.user_id)
        everybody: list[Device | Sender] = [sender, *devices]
        for each in everybody:
            each.start()
        for n in range(1, ROUNDS + 1):
            enough = n * MESSAGES // (ROUNDS + 1)
            wait_until(lambda enough=enough: sender.acknowledged >= enough, "messages are acknowledged")  # type: ignore[misc]
            server.kill()
            server.start()
        for each in everybody:
            each.join()
            assert each.failures == []
        for device in devices:
            assert device.kept == list(range(MESSAGES))
            assert device.seen_before_dying, "no response was lost"
