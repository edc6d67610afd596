# SPDX-License-Identifier: Apache-2.0
"""matrix-nio holds a whole conversation: what each of two accounts sees is what the other did."""

from tests.interop.conversation import record_of
from tests.interop.environments import python
from tests.interop.expected import MESSAGES, STATE
from tests.serving import ServerProcess


def test_two_accounts_converse(lares_server: ServerProcess) -> None:
    """From registration to logged-out tokens, everything arrives, in order, once."""
    command = [str(python()), "-m", "tests.interop.nio_client"]
    record = record_of(command, lares_server.base_url, "nio-alice", "nio-bob")
    alice, bob = (f"@nio-{name}:{lares_server.server_name}" for name in ("alice", "bob"))
    types = set(record["state"][0].pop("types"))
    assert types >= STATE
    assert record == {
        "register": [{"user_id": user, "device_id": True, "token": True} for user in (alice, bob)],
        "login": [{"user_id": bob, "new_device": True}],
        "whoami": [{"user_id": bob, "same_device": True}],
        "wrong password": [{"errcode": "M_FORBIDDEN"}],
        "uninvited join": [{"errcode": "M_FORBIDDEN"}],
        "invited": [{"by": alice, "name": "Ship"}],
        "joined": [{"sender": bob, "name": "Ship", "topic": "Lares", "members": [alice, bob]}],
        "received": [{"bodies": MESSAGES, "senders": [alice], "same_ids": True, "repeated_is_same": True}],
        "backwards": [{"bodies": MESSAGES[::-1], "first": "m.room.create", "several_pages": True}],
        "forwards": [
            {"bodies": MESSAGES[6:], "context": [["message 4", "message 3"], "message 5", MESSAGES[6:8]]}
        ],
        "redacted": [
            {"target": True, "reason": "typo", "now": "RedactedEvent", "content": {}},
        ],
        "typing": [{"users": [alice], "then": []}],
        "receipts": [{"events": [True, True], "types": ["m.read", "m.read"], "threads": [None, "main"]}],
        "display name": [{"member": alice, "in_room": "Alice the First", "profile": "Alice the First"}],
        "state": [{"name": {"name": "Ship"}, "members": [alice, bob], "without_power": "M_FORBIDDEN"}],
        "left": [{"members": [alice], "send": "M_FORBIDDEN"}],
        "logout": [{"errcode": "M_UNKNOWN_TOKEN", "soft": False}] * 2,
    }
