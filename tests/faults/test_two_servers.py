# SPDX-License-Identifier: Apache-2.0
"""Two server processes on one database: any of them writes any room, and both tell everyone."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from tests.faults.load import Senders, all_messages, assert_nothing_lost_or_doubled, shared_room
from tests.serving import postgres, serving

MESSAGES = 60


def test_two_servers_write_one_room(tmp_path: Path) -> None:
    """Writers at both processes: one chain, no event lost, none doubled, and both show the same history."""
    with (
        postgres(tmp_path / "db") as url,
        serving(tmp_path / "a", database_url=url) as first,
        first.beside(tmp_path / "b") as second,
    ):
        accounts = [first.register(name) for name in ("alice", "bob", "carol", "dave")]
        room_id = shared_room(first, accounts)
        targets = [(first, accounts[0]), (second, accounts[1]), (first, accounts[2]), (second, accounts[3])]
        senders = Senders(targets, room_id, MESSAGES, "m")
        senders.start()
        record = senders.join()
        messages = all_messages(first, accounts[0], room_id)
        assert_nothing_lost_or_doubled(record, messages)
        assert record.count == 4 * MESSAGES
        assert [e["event_id"] for e in all_messages(second, accounts[1], room_id)] == [
            e["event_id"] for e in messages
        ]


def test_a_long_poll_at_one_server_hears_the_other(tmp_path: Path) -> None:
    """A message sent at one process wakes a sync that waits at the other; a revoked token is refused at both."""
    with (
        postgres(tmp_path / "db") as url,
        serving(tmp_path / "a", database_url=url) as first,
        first.beside(tmp_path / "b") as second,
    ):
        alice, bob = first.register("alice"), first.register("bob")
        room_id = shared_room(first, [alice, bob])
        start = second.call("GET", "/_matrix/client/v3/sync", token=bob.access_token)
        assert start.status == 200, start.body
        since = start.body["next_batch"]
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/1"
        sent = first.call("PUT", path, {"msgtype": "m.text", "body": "hello"}, token=alice.access_token)
        bodies: list[str] = []
        while not bodies:
            answer = second.call(
                "GET",
                "/_matrix/client/v3/sync",
                token=bob.access_token,
                query={"since": since, "timeout": "20000"},
            )
            assert answer.status == 200, answer.body
            since = answer.body["next_batch"]
            room = answer.body.get("rooms", {}).get("join", {}).get(room_id, {})
            bodies = [
                e["event_id"]
                for e in room.get("timeline", {}).get("events", [])
                if e["type"] == "m.room.message"
            ]
        assert bodies == [sent.body["event_id"]]
        assert first.call("POST", "/_matrix/client/v3/logout", {}, token=bob.access_token).status == 200
        gone = second.call("GET", "/_matrix/client/v3/account/whoami", token=bob.access_token)
        assert (gone.status, gone.body["errcode"]) == (401, "M_UNKNOWN_TOKEN")
