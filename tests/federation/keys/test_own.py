# SPDX-License-Identifier: Apache-2.0
"""What this server says of its own keys."""

from typing import Any

import pytest

from federation.keys.own import OldKey, OwnKeys, configured_old_keys
from federation.keys.published import read_published
from homeserver.config.sections import Federation, OldSigningKey
from homeserver.protocol.signing import check_json_signature
from tests.federation.keys.world import KEY, MINUTE, US, Clock
from tests.federation.servers import make_key

OLD = make_key("old", "ed25519:old")


def test_others_can_read_and_believe_it() -> None:
    """Present key, old keys, signed; valid for a day from now on, and renewed each hour."""
    clock = Clock()
    section = Federation(
        old_keys=(OldSigningKey(key_id="ed25519:old", key=OLD.verify_key.to_base64(), expired_ts=5),)
    )
    own = OwnKeys(server_name=US, signing_key=KEY, old_keys=configured_old_keys(section), now=clock)
    answer: Any = own.published()
    check_json_signature(answer, US, {KEY.key_id: KEY.verify_key})
    read = read_published(answer, US, now=clock.now)
    assert [(key.key_id, key.valid_until_ts, key.retired) for key in read.keys] == [
        ("ed25519:ours", clock.now + 24 * 60 * MINUTE, False),
        ("ed25519:old", 5, True),
    ]
    clock.now += 59 * MINUTE
    assert own.published() is answer
    clock.now += MINUTE
    assert own.published()["valid_until_ts"] == clock.now + 24 * 60 * MINUTE


def test_one_id_for_two_keys_is_refused() -> None:
    """Others would not know which of them signed."""
    with pytest.raises(ValueError, match="ed25519:ours"):
        OwnKeys(
            server_name=US,
            signing_key=KEY,
            old_keys=[OldKey("ed25519:ours", OLD.verify_key, 5)],
            now=Clock(),
        )
