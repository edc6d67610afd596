# SPDX-License-Identifier: Apache-2.0
"""What one process writes costs another what is new, once, however many there wait for it."""

from __future__ import annotations

import re
import threading
from collections import Counter
from urllib.parse import quote

from tests.processes.asking import CLIENT, Processes
from tests.serving import ServerProcess
from tests.waiting import wait_until

LISTENERS = 8


def statements(server: ServerProcess) -> Counter[str]:
    """Of those that a sync or a foreign commit could cause."""
    figures = server.call("GET", "/metrics").raw.decode()
    found = re.findall(r'lares_database_statement\w*_count\{[^}]*?"(\w+)"[^}]*\} ([0-9.]+)', figures)
    return Counter({name: int(float(value)) for name, value in found})


def test_a_message_from_elsewhere_is_read_by_nobody(machines: Processes) -> None:
    """One query, of its room alone; nobody asks for members, devices or counts because of it."""
    here, there = machines.servers
    sender = there.register(f"user{next(machines.names)}")
    room = there.call(
        "POST", f"{CLIENT}/createRoom", {"preset": "public_chat"}, token=sender.access_token
    ).body["room_id"]
    path = f"{CLIENT}/rooms/{quote(room)}"
    users = [here.register(f"user{next(machines.names)}") for _ in range(LISTENERS)]
    for user in users:
        here.call("POST", f"{path}/join", {}, token=user.access_token)
    there.call("PUT", f"{path}/send/m.room.message/warm", {"body": "warm"}, token=sender.access_token)
    tokens: dict[str, str] = {}

    def listen(user_token: str, *, timeout: int) -> list[str]:
        query = {"timeout": str(timeout)}
        if user_token in tokens:
            query["since"] = tokens[user_token]
        told = here.call("GET", f"{CLIENT}/sync", token=user_token, query=query).body
        tokens[user_token] = told["next_batch"]
        joined = told.get("rooms", {}).get("join", {}).get(room, {"timeline": {"events": []}})
        return [event["content"].get("body") for event in joined["timeline"]["events"]]

    def until_told(user_token: str, body: str, told: list[str]) -> None:
        while body not in listen(user_token, timeout=20_000):
            pass
        told.append(body)

    def round_of(body: str) -> Counter[str]:
        told: list[str] = []
        threads = [
            threading.Thread(target=until_told, args=(user.access_token, body, told)) for user in users
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: _waiting(here) == LISTENERS, "all wait")
        before = statements(here)
        there.call("PUT", f"{path}/send/m.room.message/{body}", {"body": body}, token=sender.access_token)
        for thread in threads:
            thread.join()
        assert told == [body] * LISTENERS
        return statements(here) - before

    for user in users:
        listen(user.access_token, timeout=0)
    for warm in ("one", "two"):
        round_of(warm)
    asked = round_of("three")
    assert not asked.keys() & {
        "rooms_since",
        "rooms_load",
        "rooms_moved",
        "events_by_ordinals",
        "event_timelines",
        "device_lists_sharing",
        "memberships_standing",
        "memberships_intervals",
    }, asked


def _waiting(server: ServerProcess) -> int:
    figures = server.call("GET", "/metrics").raw.decode()
    found = re.search(r"^lares_stream_listeners(?:\{[^}]*\})? ([0-9.]+)", figures, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))
