# SPDX-License-Identifier: Apache-2.0
"""The signing key and the registration secret are made once, kept private, and never replaced."""

import stat
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Barrier

import pytest
from signedjson.key import read_signing_keys

from homeserver.config import StartRefused, parse
from homeserver.config.private_file import load_or_create
from homeserver.config.registration_secret import load_or_create_registration_secret, read_registration_secret
from homeserver.config.signing_key import load_or_create_signing_key
from homeserver.protocol.identifiers import parse_key_id
from homeserver.protocol.signing import sign_json
from homeserver.protocol.unpadded_base64 import decode_base64


def test_a_signing_key_is_made_once(tmp_path: Path) -> None:
    """The second start signs with the key of the first, which only the server's user may read."""
    data_dir = tmp_path / "deep" / "data"
    made = load_or_create_signing_key(data_dir)
    again = load_or_create_signing_key(data_dir)
    assert made.key_id == again.key_id
    assert made.verify_key.to_base64() == again.verify_key.to_base64()
    assert stat.S_IMODE((data_dir / "signing.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert [path.name for path in data_dir.iterdir()] == ["signing.key"]


def test_the_key_file_has_the_form_other_homeservers_use(tmp_path: Path) -> None:
    """signedjson reads the file and comes to the same key."""
    ours = load_or_create_signing_key(tmp_path)
    with (tmp_path / "signing.key").open() as file:
        (theirs,) = read_signing_keys(file)
    assert f"{theirs.alg}:{theirs.version}" == ours.key_id
    assert len(parse_key_id(ours.key_id).name) >= 4
    assert ours.sign(b"message") == load_or_create_signing_key(tmp_path).sign(b"message")
    assert bytes(theirs.sign(b"message").signature) == decode_base64(ours.sign(b"message"))


def test_a_key_brought_along_is_used(tmp_path: Path) -> None:
    """The specification's own test key (appendices, Cryptographic Test Vectors)."""
    (tmp_path / "signing.key").write_text("ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n")
    key = load_or_create_signing_key(tmp_path)
    assert key.key_id == "ed25519:1"
    assert sign_json({}, "domain", key)["signatures"]["domain"]["ed25519:1"] == (
        "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
    )


@pytest.mark.parametrize(
    "text", ["", "ed25519 a_1\n", "rsa a_1 AAAA\n", "ed25519 a_1 AAAA\n", "ed25519 a:1 !!\n"]
)
def test_a_broken_key_file_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    """Replacing it would make the server a stranger to everyone it has met."""
    (tmp_path / "signing.key").write_text(text)
    with pytest.raises(StartRefused, match="is not a signing key"):
        load_or_create_signing_key(tmp_path)
    assert (tmp_path / "signing.key").read_text() == text


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    """Everyone gets what the first one wrote."""
    barrier = Barrier(8)

    def start(number: int) -> str:
        def make() -> str:
            barrier.wait()  # nobody found the file
            return str(number)

        return load_or_create(tmp_path / "secret", make)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_folder_that_cannot_be_made_is_a_refusal(tmp_path: Path) -> None:
    """A file in the way is told in words."""
    (tmp_path / "data").touch()
    with pytest.raises(StartRefused, match=r"cannot (read|write) .*signing.key"):
        load_or_create_signing_key(tmp_path / "data")


def test_the_configured_registration_secret_comes_first(tmp_path: Path) -> None:
    """Nothing is stored where the administrator chose one."""
    config = parse("registration: {shared_secret: chosen}", source="test", folder=tmp_path)
    assert load_or_create_registration_secret(config) == "chosen"
    assert read_registration_secret(config) == "chosen"
    assert not config.data_dir.exists()


def test_the_command_line_reads_the_servers_secret_and_makes_none(tmp_path: Path) -> None:
    """A secret made by the command would open no running server."""
    config = parse("", source="test", folder=tmp_path)
    with pytest.raises(StartRefused, match="no server has run with this data_dir yet"):
        read_registration_secret(config)
    secret = load_or_create_registration_secret(config)
    assert len(secret) >= 32
    assert read_registration_secret(config) == load_or_create_registration_secret(config) == secret


def test_advisory_30_a_signing_key_that_everybody_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2026-24044: other servers would believe whoever took it from the same place."""
    key = load_or_create_signing_key(tmp_path)
    digest = sha256(decode_base64(key.verify_key.to_base64())).digest()
    monkeypatch.setattr("homeserver.protocol.compromised_keys._COMPROMISED", frozenset({digest}))
    with pytest.raises(StartRefused, match="everybody has"):
        load_or_create_signing_key(tmp_path)
