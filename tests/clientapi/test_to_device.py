# SPDX-License-Identifier: Apache-2.0
"""What `/sendToDevice` holds while its messages wait for their commits."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.clientapi.to_device import ToDeviceEndpoints
from homeserver.devices.messages import ToDevice
from homeserver.devices.remote import MessagesOut
from tests.web.loopback import Loopback, request_bytes

LOCAL, REMOTE = "@held:here", "@held:elsewhere"
MARK = "a key of this test"
CONTENT: dict[str, Any] = {MARK: {"a": []}}


class Slow:
    """A database, and the way to other servers, that take until the test lets them."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.asked: Deferred[None] = Deferred()
        self.gate: Deferred[int] = Deferred()

    def write(self, _kind: str, rows: Sequence[Mapping[str, Any]], **_rest: Any) -> Deferred[int]:
        self.rows += rows
        self.asked.callback(None)
        return self.gate

    async def is_done(self, _transaction: str) -> bool:
        return False

    async def send(self, _messages: MessagesOut) -> None:
        pass


async def test_a_request_that_waits_is_not_held_as_values() -> None:
    """Which may take twenty times the bytes that are counted: neither its messages, nor what is beside them."""
    slow: Any = Slow()
    to_device = ToDevice(
        origin="here",
        store=slow,
        news=slow,
        committer=slow,
        remote=slow,
        is_local=LOCAL.__eq__,
        now=lambda: 0,
    )
    server = Loopback(ToDeviceEndpoints(to_device).routes())
    messages = {LOCAL: {"D": CONTENT}, REMOTE: {"D": CONTENT}}
    body = json.dumps({"messages": messages, "beside": CONTENT}).encode()
    del messages
    connection = await server.connect()
    connection.send(request_bytes("PUT", "/_matrix/client/v3/sendToDevice/m.x/t", body=body, token="alice"))
    await slow.asked
    found = [each for each in gc.get_objects() if type(each) is dict and each.keys() & {LOCAL, MARK}]
    assert found == [CONTENT], "only the test's own"
    slow.gate.callback(1)
    assert (await connection.response()).json == {}
    assert slow.rows[0]["users"] == [LOCAL]
    await server.stop()
