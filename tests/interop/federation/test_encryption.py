# SPDX-License-Identifier: Apache-2.0
"""Real crypto between servers: devices of ours and of a Synapse's read all that the others say."""

from __future__ import annotations

import pytest

from tests.interop.encryption import assert_all_is_read, assert_history_is_read, held
from tests.interop.federation.conftest import Federation
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.synapse import PASSWORD
from tests.interop.mixed_room import assert_all_understand_each_other

WITH_SYNAPSE = (("lares", "synapse"), ("synapse", "lares"))
PAIRS = (*WITH_SYNAPSE, ("lares", "other lares"))


@pytest.mark.parametrize(("near", "far"), PAIRS, ids=[" and ".join(pair) for pair in PAIRS])
def test_devices_talk_in_secret(federation: Federation, near: str, far: str) -> None:
    """The list of devices follows every log-in and log-out on the other server; nothing stays unreadable."""
    meeting = f"{near}-{far}".replace(" ", "-")
    accounts = [_account(federation, server, f"secret-{meeting}") for server in (near, far)]
    assert_all_is_read(held(*accounts))


@pytest.mark.parametrize(("near", "far"), WITH_SYNAPSE, ids=[" and ".join(pair) for pair in WITH_SYNAPSE])
def test_who_is_invited_from_another_server_reads_what_was_said_before(
    federation: Federation, near: str, far: str
) -> None:
    """The file with the keys is fetched from the inviting user's server."""
    meeting = f"{near}-{far}".replace(" ", "-")
    accounts = [_account(federation, server, f"history-{meeting}") for server in (near, far)]
    assert_history_is_read(held(*accounts, scenario="history"))


def test_all_kinds_of_clients_share_a_room_from_three_servers(federation: Federation) -> None:
    """matrix-js-sdk here, matrix-nio at a Synapse, mautrix at another server of ours; the host is at the first."""
    accounts = [_account(federation, server, "common") for server in ("lares", "synapse", "other lares")]
    host = federation.person("lares", "common-host")
    content = {"algorithm": "m.megolm.v1.aes-sha2"}
    host.create_room(
        preset="private_chat",
        invite=[user_id for _, user_id, _ in accounts],
        initial_state=[{"type": "m.room.encryption", "state_key": "", "content": content}],
    )
    assert_all_understand_each_other(accounts)


def _account(federation: Federation, name: str, localpart: str) -> tuple[str, str, str]:
    server = federation.server(name)
    base_url = f"http://127.0.0.1:{server.client_port}"
    if isinstance(server, LaresServer):
        account = server.process.register(localpart)
        return base_url, account.user_id, account.password
    return base_url, server.register(localpart).user_id, PASSWORD
