# SPDX-License-Identifier: Apache-2.0
"""matrix-js-sdk with its crypto in Rust, on two accounts with two devices each: nothing stays unreadable.

matrix-nio with its own crypto besides, and a room where mautrix with libolm meets both.
"""

import json
from pathlib import Path

from tests.interop.conversation import record_of
from tests.interop.encryption import assert_all_is_read, assert_history_is_read, held
from tests.interop.environments import python
from tests.interop.mixed_room import CLIENTS, assert_all_understand_each_other
from tests.serving import ServerProcess


def test_four_devices_talk_in_secret(lares_server: ServerProcess) -> None:
    """Verified by string, by a device of one's own and by the recovery key; late devices read from the backup."""
    alice, bob = (lares_server.register(f"secret-{name}") for name in ("alice", "bob"))
    record = held(*((lares_server.base_url, account.user_id, account.password) for account in (alice, bob)))
    assert_all_is_read(record)


def test_what_is_said_meanwhile_is_read_at_the_next_log_in(lares_server: ServerProcess) -> None:
    """A dehydrated device is sent the keys while nobody is logged in; another takes its place once it was opened."""
    alice, bob = (lares_server.register(f"sleepy-{name}") for name in ("alice", "bob"))
    accounts = [(lares_server.base_url, account.user_id, account.password) for account in (alice, bob)]
    record = held(*accounts, scenario="dehydration")
    assert record["here"] == [{"read": ["are you there?"]}]
    assert record["supported"] == [{"dehydration": True}]
    back = record["back"][0]
    assert back["read"] == ["are you there?", "you were gone"]
    assert back["found"]["completed"] and back["found"]["keys"] >= 1 and "error" not in back["found"], back
    refused = record["refused"][0]["requests"]
    assert not [request for request in refused if not request.startswith("404 ")], refused


def test_nio_devices_talk_in_secret(lares_server: ServerProcess, tmp_path: Path) -> None:
    """In a room that the server made encrypted by itself; a late device reads what is said from then on."""
    accounts = [
        {"baseUrl": lares_server.base_url, "user": account.user_id, "password": account.password}
        for account in (lares_server.register(f"nio-secret-{name}") for name in ("alice", "bob"))
    ]
    command = [str(python()), "-m", "tests.interop.nio_encryption"]
    record = record_of(command, str(tmp_path), *map(json.dumps, accounts))
    assert record["gathered"] == [{"encrypted": [True, True]}]
    said = ["hello", "hello yourself", "how many are you?", "two"]
    assert record["heard"] == [
        {"device": "alice", "texts": said, "problems": []},
        {"device": "bob", "texts": said, "problems": []},
        {"device": "late", "texts": said[2:], "problems": []},
    ]


def test_all_kinds_of_clients_share_a_room(lares_server: ServerProcess) -> None:
    """Whatever crypto they bring, everybody reads everybody, once each; the room was encrypted by the server."""
    host = lares_server.register("common-host")
    accounts = [lares_server.register(f"common-{number}") for number in range(CLIENTS)]
    body = {"preset": "private_chat", "invite": [account.user_id for account in accounts]}
    made = lares_server.call("POST", "/_matrix/client/v3/createRoom", body, token=host.access_token)
    assert made.status == 200, made
    assert_all_understand_each_other(
        [(lares_server.base_url, account.user_id, account.password) for account in accounts]
    )


def test_who_is_invited_reads_what_was_said_before(lares_server: ServerProcess) -> None:
    """The keys come in an encrypted file (MSC4268), which needs the media repository beside the messages to devices."""
    alice, bob = (lares_server.register(f"history-{name}") for name in ("alice", "bob"))
    accounts = [(lares_server.base_url, account.user_id, account.password) for account in (alice, bob)]
    assert_history_is_read(held(*accounts, scenario="history"))
