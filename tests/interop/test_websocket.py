# SPDX-License-Identifier: Apache-2.0
"""The WebSocket transport, driven by a library the server does not use (`docs/websocket.md` is the contract)."""

from pathlib import Path

from tests.interop.conversation import record_of
from tests.interop.environments import python
from tests.serving import ServerProcess

SCRIPT = Path(__file__).with_name("websocket_client.py")


def test_two_accounts_converse(lares_server: ServerProcess) -> None:
    """Every method of the table, refusals before the upgrade, errors after it, and coming back with `since`."""
    alice, bob = lares_server.register("ws-alice"), lares_server.register("ws-bob")
    record = record_of(
        [str(python()), str(SCRIPT)], lares_server.base_url, alice.access_token, bob.access_token
    )
    refused = record.pop("refused")[0]
    assert 400 <= refused.pop("protocol") < 500
    assert refused == {
        "unknown": {"status": 401, "errcode": "M_UNKNOWN_TOKEN"},
        "missing": {"status": 401, "errcode": "M_MISSING_TOKEN"},
    }
    aliases = record.pop("aliases")[0]["opened"]
    assert len(aliases) == 3 and all(aliases.values()), aliases
    assert record == {
        "opened": [{"subprotocols": ["m.json", None], "id_in_update": False, "rooms": True}],
        "sent": [{"repeated_is_same": True, "received": ["first", "first"], "same_ids": True, "ping": {}}],
        "state": [{"same_id": True, "topic": {"topic": "Penates"}}],
        "signalled": [
            {"results": [{}, {}, {}], "typing": [bob.user_id], "readers": [bob.user_id], "ack": {}}
        ],
        "mistakes": [
            {
                "not_json": "M_NOT_JSON",
                "not_object": "M_BAD_JSON",
                "no_id": "M_BAD_JSON",
                "unknown_method": "M_BAD_JSON",
                "missing_field": "M_BAD_JSON",
                "not_in_room": "M_FORBIDDEN",
                "alive": {},
            }
        ],
        "came back": [{"bodies": ["missed"]}],
        "token ended": [{"errcode": "M_UNKNOWN_TOKEN", "code": 4001}],
    }
