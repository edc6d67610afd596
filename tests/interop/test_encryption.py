# SPDX-License-Identifier: Apache-2.0
"""matrix-js-sdk with its crypto in Rust, on two accounts with two devices each: nothing stays unreadable."""

from tests.interop.encryption import assert_all_is_read, held
from tests.serving import ServerProcess


def test_four_devices_talk_in_secret(lares_server: ServerProcess) -> None:
    """Verified by string, by a device of one's own and by the recovery key; late devices read from the backup."""
    alice, bob = (lares_server.register(f"secret-{name}") for name in ("alice", "bob"))
    record = held(*((lares_server.base_url, account.user_id, account.password) for account in (alice, bob)))
    assert_all_is_read(record)
