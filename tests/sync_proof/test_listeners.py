# SPDX-License-Identifier: Apache-2.0
"""Many listen to one room at once, over both wires: each is told of each message once, in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.serving import ServerProcess
from tests.sync_proof.oracle import Json
from tests.sync_proof.transport import PATIENCE, Http, WebSocket, path

LISTENERS = 25
"""On each wire."""
MESSAGES = 20

_FILTER = json.dumps({"room": {"timeline": {"limit": 100}}})


def _register(http: Http, name: str) -> str:
    """An access token."""
    body = {"username": name, "password": "pa55word of a test", "auth": {"type": "m.login.dummy"}}
    token: str = http.call("POST", "/v3/register", body)["access_token"]
    return token


def _messages(response: Json, room_id: str) -> list[str]:
    """The event ids of the messages in a response."""
    timeline = response.get("rooms", {}).get("join", {}).get(room_id, {}).get("timeline", {"events": []})
    assert not timeline.get("limited"), timeline
    return [event["event_id"] for event in timeline["events"] if event["type"] == "m.room.message"]


def _poll(port: int, token: str, room_id: str, ready: Callable[[], object]) -> list[str]:
    """Long-poll until all messages were heard of, and once more."""
    http = Http(port)
    query = {"filter": _FILTER, "set_presence": "offline"}
    try:
        first = http.call("GET", path("sync"), token=token, query=query)
        since, heard = first["next_batch"], _messages(first, room_id)
        ready()
        while len(heard) < MESSAGES:
            answer = http.call(
                "GET", path("sync"), token=token, query={**query, "since": since, "timeout": "60000"}
            )
            assert answer["next_batch"] != since, "the poll timed out"
            since = answer["next_batch"]
            heard += _messages(answer, room_id)
        rest = http.call("GET", path("sync"), token=token, query={**query, "since": since})
        return heard + _messages(rest, room_id)
    finally:
        http.close()


def _stream(port: int, token: str, room_id: str, ready: Callable[[], object]) -> list[str]:
    """Read a WebSocket until all messages were heard of, and then until it answers."""
    socket = WebSocket(port, {"filter": _FILTER, "set_presence": "offline", "access_token": token})
    try:
        heard = _messages(socket.receive(), room_id)
        ready()
        while len(heard) < MESSAGES:
            heard += _messages(socket.receive(), room_id)
        socket.send({"id": "last", "method": "ping", "params": {}})
        while (frame := socket.receive()).get("id") != "last":
            heard += _messages(frame, room_id)
        return heard
    finally:
        socket.close()


def test_all_listeners_hear_all_messages_once_in_order(sync_server: ServerProcess) -> None:
    """Twenty messages, fifty listeners who were there before the first."""
    http = Http(sync_server.port)
    sender = _register(http, "listeners-sender")
    body = {"preset": "public_chat", "name": "Hall"}
    room_id: str = http.call("POST", path("createRoom"), body, token=sender)["room_id"]
    listening = threading.Barrier(2 * LISTENERS + 1, timeout=PATIENCE)
    tokens = [_register(http, f"listener-{number}") for number in range(2 * LISTENERS)]
    with ThreadPoolExecutor(2 * LISTENERS) as threads:
        heard = []
        for number, token in enumerate(tokens):
            http.call("POST", path("join", room_id), {}, token=token)
            wire = _poll if number % 2 else _stream
            heard.append(threads.submit(wire, sync_server.port, token, room_id, listening.wait))
        listening.wait()
        sent = []
        for number in range(MESSAGES):
            where = path("rooms", room_id, "send", "m.room.message", f"m{number}")
            content = {"msgtype": "m.text", "body": str(number)}
            sent.append(http.call("PUT", where, content, token=sender)["event_id"])
        for listener in heard:
            assert listener.result() == sent
    http.close()
