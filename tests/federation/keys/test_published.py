# SPDX-License-Identifier: Apache-2.0
"""What a server says of its keys is believed as far as it can be checked, and no further."""

from typing import Any

import pytest

from federation.keys.published import LONGEST_MS, BadServerKeys, read_published
from homeserver.protocol.compromised_keys import is_compromised
from homeserver.protocol.signing import VerifyKey, sign_json
from tests.federation.servers import RemoteServer, make_key, now_ms

HYDRA = RemoteServer("hydra.test")
COMPROMISED = "l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og"


def test_present_and_old_keys_are_read() -> None:
    """Present ones until the answer ends, old ones until they were last used."""
    now = now_ms()
    server = RemoteServer("hydra.test")
    old = make_key("old", "ed25519:old")
    server.old_keys["ed25519:old"] = (old.verify_key, 1000)
    server.valid_for_ms = 3_600_000
    published = read_published(server.key_response(), "hydra.test", now=now)
    by_id = {key.key_id: key for key in published.keys}
    assert now + 3_500_000 < by_id["ed25519:test"].valid_until_ts < now + 3_700_000
    assert not by_id["ed25519:test"].retired
    assert (by_id["ed25519:old"].valid_until_ts, by_id["ed25519:old"].retired) == (1000, True)


def test_no_key_is_believed_for_more_than_a_week() -> None:
    """However long the server promises, and an old key never beyond now."""
    now = now_ms()
    server = RemoteServer("hydra.test")
    server.valid_for_ms = 10**15
    server.old_keys["ed25519:old"] = (make_key("old").verify_key, 2**70)
    published = read_published(server.key_response(), "hydra.test", now=now)
    assert [key.valid_until_ts for key in published.keys] == [now + LONGEST_MS, now - 1]
    assert published.valid_until_ts == now + LONGEST_MS


def _tampered(**changes: Any) -> dict[str, Any]:
    return {**HYDRA.key_response(), **changes}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([], "no object"),
        (HYDRA.key_response(server_name="other.test"), "another server"),
        (HYDRA.key_response(valid_until_ts="soon"), "integer"),
        (HYDRA.key_response(valid_until_ts=True), "integer"),
        (HYDRA.key_response(valid_until_ts=1.5), "integer"),
        (_tampered(signatures={}), "not signed"),
        (_tampered(valid_until_ts=1), "not signed"),
        (
            _tampered(verify_keys={"ed25519:test": {"key": make_key("x").verify_key.to_base64()}}),
            "not signed",
        ),
        (HYDRA.key_response(verify_keys={}), "not signed"),
        (HYDRA.key_response(verify_keys=[]), "must be an object"),
        (HYDRA.key_response(old_verify_keys=7), "must be an object"),
        (
            HYDRA.key_response(
                verify_keys={f"ed25519:k{n}": {"key": HYDRA.key.verify_key.to_base64()} for n in range(33)}
            ),
            "more than",
        ),
        (HYDRA.key_response(verify_keys={"ed25519:test": {"key": "AAAA"}}), "not signed"),
        (HYDRA.key_response(verify_keys={"ed25519:test": {"key": 5}}), "not signed"),
        (HYDRA.key_response(verify_keys={"curve25519:test": {"key": "AAAA"}}), "not signed"),
    ],
)
def test_an_answer_that_does_not_hold_is_refused(answer: object, why: str) -> None:
    """Another server's, unsigned, changed after signing, signed by a key it does not name, too many, no keys."""
    with pytest.raises(BadServerKeys, match=why):
        read_published(answer, "hydra.test", now=now_ms())


def test_advisory_30_a_key_that_everybody_has_is_none() -> None:
    """Advisory CVE-2026-24044: the key that one chart gave to all its installations."""
    assert is_compromised(VerifyKey.from_base64(COMPROMISED))
    assert not is_compromised(HYDRA.key.verify_key)
    answer = HYDRA.key_response(
        verify_keys={
            "ed25519:test": {"key": HYDRA.key.verify_key.to_base64()},
            "ed25519:shared": {"key": COMPROMISED + "="},
        },
        old_verify_keys={"ed25519:was": {"key": COMPROMISED, "expired_ts": 5}},
    )
    assert [key.key_id for key in read_published(answer, "hydra.test", now=now_ms()).keys] == ["ed25519:test"]
    alone = HYDRA.key_response(verify_keys={"ed25519:shared": {"key": COMPROMISED}})
    with pytest.raises(BadServerKeys):
        read_published(alone, "hydra.test", now=now_ms())


def test_every_present_key_that_signed_must_have_signed_well() -> None:
    """One good signature beside a bad one is no good answer."""
    second = make_key("second", "ed25519:second")
    keys = {
        "ed25519:test": {"key": HYDRA.key.verify_key.to_base64()},
        "ed25519:second": {"key": second.verify_key.to_base64()},
    }
    both = sign_json(HYDRA.key_response(verify_keys=keys), "hydra.test", second)
    assert len(read_published(both, "hydra.test", now=now_ms()).keys) == 2
    both["signatures"]["hydra.test"]["ed25519:second"] = both["signatures"]["hydra.test"]["ed25519:test"]
    with pytest.raises(BadServerKeys):
        read_published(both, "hydra.test", now=now_ms())
