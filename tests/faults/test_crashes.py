# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of the server or of its database, again and again under load: what was acknowledged stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.load import Senders, all_messages, assert_nothing_lost_or_doubled, shared_room
from tests.serving import ServerProcess, serving
from tests.waiting import wait_until

ROUNDS = 3
MESSAGES = 120


def _kill_server(server: ServerProcess) -> None:
    server.kill()
    server.start()


def _kill_database(server: ServerProcess) -> None:
    """The embedded database dies under the server; the server is restarted if it chose to end."""
    server.kill_database()
    wait_until(lambda: not server.running or _answers(server), "the server ends or answers again")
    if not server.running:
        server.start()


def _answers(server: ServerProcess) -> bool:
    try:
        return server.call("GET", "/health").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("kill", [_kill_server, _kill_database])
def test_nothing_acknowledged_is_lost(tmp_path: Path, kill: object) -> None:
    """Clients retry with the same transaction ids across the crashes: every message once, none lost."""
    assert callable(kill)
    with serving(tmp_path) as server:
        accounts = [server.register(name) for name in ("alice", "bob", "carol")]
        room_id = shared_room(server, accounts)
        senders = Senders([(server, account) for account in accounts], room_id, MESSAGES, "m")
        senders.start()
        for n in range(1, ROUNDS + 1):
            enough = n * len(accounts) * MESSAGES // (ROUNDS + 1)
            wait_until(lambda enough=enough: senders.record.count >= enough, "messages are acknowledged")  # type: ignore[misc]
            kill(server)
        record = senders.join()
        assert_nothing_lost_or_doubled(record, all_messages(server, accounts[0], room_id))
        assert record.count == len(accounts) * MESSAGES
