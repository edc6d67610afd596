# SPDX-License-Identifier: Apache-2.0
"""Who goes from process to process with their token is told all that is fleeting, and nothing of it twice."""

from __future__ import annotations

from contextlib import closing
from typing import Any
from urllib.parse import quote

import psycopg2

from tests.processes.asking import CLIENT, Processes
from tests.waiting import wait_until

TIMES = 12


def typists(told: dict[str, Any], room: str) -> list[list[str]]:
    """What a sync says of who types there."""
    entry = told.get("rooms", {}).get("join", {}).get(room, {})
    events = entry.get("ephemeral", {"events": []})["events"]
    return [event["content"]["user_ids"] for event in events if event["type"] == "m.typing"]


def test_every_beginning_and_end_of_typing_is_told_once(processes: Processes) -> None:
    """Whichever processes the typist and the reader go to."""
    alice, bob = processes.user(), processes.user()
    room = processes.room(alice)
    path = f"{CLIENT}/rooms/{quote(room)}"
    processes.do("POST", f"{path}/join", {}, token=bob.access_token)
    typing = f"{path}/typing/{quote(alice.user_id)}"
    since = processes.do("GET", f"{CLIENT}/sync", token=bob.access_token)["next_batch"]
    for n in range(TIMES):
        begins = n % 2 == 0
        processes.do("PUT", typing, {"typing": begins, "timeout": 60000}, token=alice.access_token)
        for expected in [[[alice.user_id] if begins else []], []]:
            told = processes.do("GET", f"{CLIENT}/sync", token=bob.access_token, query={"since": since})
            assert typists(told, room) == expected
            since = told["next_batch"]


def test_whoever_leaves_types_no_more(processes: Processes) -> None:
    """Though another process wrote that they left."""
    alice, bob = processes.user(), processes.user()
    room = processes.room(alice)
    path = f"{CLIENT}/rooms/{quote(room)}"
    since = processes.do("GET", f"{CLIENT}/sync", token=alice.access_token)["next_batch"]
    for _ in range(TIMES // 3):
        processes.do("POST", f"{path}/join", {}, token=bob.access_token)
        typing = {"typing": True, "timeout": 60000}
        processes.do("PUT", f"{path}/typing/{quote(bob.user_id)}", typing, token=bob.access_token)
        processes.do("POST", f"{path}/leave", {}, token=bob.access_token)
        known: list[list[str]] = []
        while known[-1:] != [[]]:
            asked = {"since": since, "timeout": "10000"}
            told = processes.do("GET", f"{CLIENT}/sync", token=alice.access_token, query=asked)
            known += typists(told, room)
            since = told["next_batch"]


def test_what_is_set_and_whom_one_meets_is_told_once(processes: Processes) -> None:
    """Presence: by the next answer of any process."""
    alice, bob = processes.user(), processes.user()
    room = processes.room(alice)
    status = f"{CLIENT}/presence/{quote(alice.user_id)}/status"
    told = processes.do("GET", f"{CLIENT}/sync", token=bob.access_token)
    since, known = told["next_batch"], []
    for n in range(TIMES):
        if n == 3:
            processes.do("POST", f"{CLIENT}/rooms/{quote(room)}/join", {}, token=bob.access_token)
        if n != 3:
            processes.do(
                "PUT", status, {"presence": "online", "status_msg": f"{n}"}, token=alice.access_token
            )
        for _ in range(2):
            told = processes.do("GET", f"{CLIENT}/sync", token=bob.access_token, query={"since": since})
            events = told.get("presence", {"events": []})["events"]
            known += [e["content"]["status_msg"] for e in events if e["sender"] == alice.user_id]
            since = told["next_batch"]
    assert known == ["2", *(f"{n}" for n in range(4, TIMES))]


def test_what_was_said_while_nobody_listened_is_told_when_they_do(machines: Processes) -> None:
    """The connections on which the processes hear of each other are broken in Postgres."""
    alice, bob = machines.user(), machines.user()
    room = machines.room(alice)
    path = f"{CLIENT}/rooms/{quote(room)}"
    machines.do("POST", f"{path}/join", {}, token=bob.access_token)
    for _ in machines.servers:
        since = machines.do("GET", f"{CLIENT}/sync", token=bob.access_token)["next_batch"]
    with closing(psycopg2.connect(machines.servers[0].database_url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        before = listening(cursor)
        assert len(before) == len(machines.servers)
        cursor.execute("SELECT pg_terminate_backend(unnest(%s))", (list(before),))
        status = {"presence": "online", "status_msg": "while nobody listened"}
        shown = f"{CLIENT}/presence/{quote(alice.user_id)}/status"
        machines.do("PUT", shown, status, token=alice.access_token)
        message = {"msgtype": "m.text", "body": "hello"}
        machines.do("PUT", f"{path}/send/m.room.message/1", message, token=alice.access_token)
        wait_until(lambda: len(listening(cursor) - before) == len(before), "they listen again")
    typing = {"typing": True, "timeout": 60000}
    machines.do("PUT", f"{path}/typing/{quote(alice.user_id)}", typing, token=alice.access_token)
    for server in machines.servers:
        messages: list[str] = []
        statuses: list[str] = []
        typing_told: list[list[str]] = []
        query = {"since": since, "timeout": "60000"}
        while not (messages and typing_told and status["status_msg"] in statuses):
            told = server.call("GET", f"{CLIENT}/sync", token=bob.access_token, query=query).body
            assert told["next_batch"] != query["since"], (messages, typing_told, statuses)
            query["since"] = told["next_batch"]
            timeline = told.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {"events": []})
            messages += [event["content"]["body"] for event in timeline["events"]]
            typing_told += typists(told, room)
            events = told.get("presence", {"events": []})["events"]
            statuses += [e["content"].get("status_msg", "") for e in events if e["sender"] == alice.user_id]
        assert (messages, typing_told) == (["hello"], [[alice.user_id]])


def listening(cursor: Any) -> set[int]:
    """The connections that wait for notifications."""
    cursor.execute("SELECT pid FROM pg_stat_activity WHERE query ILIKE 'listen %'")
    return {pid for (pid,) in cursor.fetchall()}
