# SPDX-License-Identifier: Apache-2.0
"""matrix-js-sdk, started as Element Web starts it, holds a whole conversation."""

from tests.interop.conversation import record_of
from tests.interop.environments import js_client
from tests.interop.expected import MESSAGES, STATE
from tests.serving import ServerProcess


def test_two_accounts_converse(lares_server: ServerProcess) -> None:
    """With lazy members and thread support, from registration to logged-out tokens; no request meets a 5xx."""
    record = record_of(js_client(), lares_server.base_url, "js-alice", "js-bob")
    alice, bob = (f"@js-{name}:{lares_server.server_name}" for name in ("alice", "bob"))
    assert set(record["changed"][0].pop("types")) >= STATE
    refused = record.pop("refused")[0]["requests"]
    assert not [request for request in refused if not request.startswith("404 ")]
    entered = {
        "available": [True, False],
        "password_login": True,
        "challenge": 401,
        "dummy_offered": True,
        "new_device": True,
        "wrong_password": "M_FORBIDDEN",
    }
    assert record == {
        "entered": [{"user_id": alice, **entered}, {"user_id": bob, **entered}],
        "invited": [{"by": alice, "name": "Ship", "uninvited": "M_FORBIDDEN"}],
        "joined": [{"name": "Ship", "topic": "Lares", "members": 2, "version": "12"}],
        "received": [{"bodies": MESSAGES, "same_ids": True, "echoes": MESSAGES}],
        "backwards": [
            {
                "shown": MESSAGES[7:],
                "bodies": MESSAGES,
                "first": "m.room.create",
                "several_pages": True,
                "members": [alice, bob],
                "found": ["message 4"],
            }
        ],
        "redacted": [{"live": {}, "reason": "typo", "fetched": {}, "because": "m.room.redaction"}],
        "signalled": [{"typing": True, "receipt": "m.read", "thread": "main"}],
        "changed": [
            {
                "in_room": "Alice the First",
                "profile": "Alice the First",
                "topic": "Penates",
                "name": {"name": "Ship"},
                "without_power": "M_FORBIDDEN",
            }
        ],
        "parted": [{"membership": "leave", "send": "M_FORBIDDEN", "tokens": ["M_UNKNOWN_TOKEN"] * 2}],
    }
