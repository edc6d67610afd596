# SPDX-License-Identifier: Apache-2.0
"""Delayed events when processes die, and when several look after them: each is sent, and none twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from urllib.parse import quote

from tests.faults.load import all_messages, shared_room
from tests.serving import Account, ServerProcess, postgres, serving
from tests.waiting import wait_until

EVENTS = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
CALL = "org.matrix.msc3401.call.member"


def schedule(server: ServerProcess, account: Account, room_id: str, name: str, delay: int) -> str:
    """Have a message sent later; its delay id."""
    answer = server.call(
        "PUT",
        f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/{name}",
        {"msgtype": "m.text", "body": name},
        token=account.access_token,
        query={"org.matrix.msc4140.delay": str(delay)},
    )
    assert answer.status == 200, answer.body
    delay_id: str = answer.body["delay_id"]
    return delay_id


def said(server: ServerProcess, account: Account, room_id: str) -> Counter[str]:
    """How often each message stands in the room."""
    return Counter(event["content"]["body"] for event in all_messages(server, account, room_id))


def test_delayed_events_survive(tmp_path: Path) -> None:
    """`kill -9` while they are being sent, and while nobody is there when they are due."""
    with serving(tmp_path) as server:
        alice = server.register("alice")
        room_id = shared_room(server, [alice])
        names = [f"m{n}" for n in range(60)]
        for n, name in enumerate(names):
            schedule(server, alice, room_id, name, 400 + 25 * n)
        key = f"_{alice.user_id}_{alice.device_id}_m.call"
        state = f"/_matrix/client/v3/rooms/{quote(room_id)}/state/{CALL}/{quote(key)}"
        token = alice.access_token
        assert server.call("PUT", state, {"application": "m.call"}, token=token).status == 200
        left = server.call("PUT", state, {}, token=token, query={"org.matrix.msc4140.delay": "1000"})
        assert left.status == 200, left.body
        for enough in (1, 25):
            wait_until(
                lambda enough=enough: len(said(server, alice, room_id)) >= enough,  # type: ignore[misc]
                "some were sent",
            )
            server.kill()
            server.start()
        wait_until(lambda: len(said(server, alice, room_id)) == len(names), "all were sent")
        wait_until(lambda: server.call("GET", state, token=token).body == {}, "the call was left")
        scheduled = server.call("GET", EVENTS, token=token, query={"status": "scheduled"})
        wait_until(
            lambda: (
                not server.call("GET", EVENTS, token=token, query={"status": "scheduled"}).body["scheduled"]
            ),
            f"all are done: {scheduled.body}",
        )
        assert said(server, alice, room_id) == Counter(names)
        members = server.call("GET", f"/_matrix/client/v3/rooms/{quote(room_id)}/messages", token=token,
            query={"dir": "b", "limit": "1000", "filter": f'{{"types":["{CALL}"]}}'})  # fmt: skip
        assert [event["content"] for event in members.body["chunk"]] == [{}, {"application": "m.call"}]


def test_two_processes_send_each_once(tmp_path: Path) -> None:
    """Both look after all of them, and one goes on when the other dies."""
    with (
        postgres(tmp_path / "db") as url,
        serving(tmp_path / "a", database_url=url) as first,
        first.beside(tmp_path / "b") as second,
    ):
        alice, bob = first.register("alice"), first.register("bob")
        room_id = shared_room(first, [alice, bob])
        names = [f"m{n}" for n in range(40)]
        for n, name in enumerate(names):
            server, account = ((first, alice), (second, bob))[n % 2]
            schedule(server, account, room_id, name, 300 + 10 * (n // 10))
        wait_until(lambda: len(said(first, alice, room_id)) == len(names), "all were sent")
        # What is due before the machine comes to the restart is sent already.
        for delay in (1500, 6000, 24000):
            names.append(f"last-of-{delay}")
            last = schedule(second, bob, room_id, names[-1], delay)
            answer = first.call("POST", f"{EVENTS}/{last}/restart")
            if answer.status == 200:
                break
        assert answer.status == 200, answer.body
        second.kill()
        wait_until(lambda: said(first, alice, room_id)[names[-1]] == 1, "the other's was sent")
        assert said(first, alice, room_id) == Counter(names)
