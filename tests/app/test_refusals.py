# SPDX-License-Identifier: Apache-2.0
"""What keeps a server from starting is one sentence that says what to do, and nothing is left behind.

Exit code 1 where something is in the way, 2 where the configuration is wrong (each wrong key named).
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from psycopg2.extensions import make_dsn, parse_dsn

from tests.app.looking import database_processes
from tests.serving import CHECKOUT, PATIENCE, ServerProcess, configuration, free_port, postgres, serving

PASSWORD = "hush-hush"


def refusal(
    directory: Path,
    change: Mapping[str, Any] | None = None,
    *,
    url: str | None = None,
    prefix: Sequence[str] = (),
) -> tuple[int, str]:
    """Exit code and standard error of a server that does not start."""
    directory.mkdir(exist_ok=True)
    base = configuration(directory, port=free_port(), server_name="localhost", database_url=url, workers=1)
    path = directory / "lares.yaml"
    path.write_text(yaml.safe_dump({**base, **(change or {})}))
    result = subprocess.run(
        [*prefix, sys.executable, "-m", "homeserver.cli", "serve", "--config", str(path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert result.stdout == ""
    assert PASSWORD not in result.stderr
    return result.returncode, result.stderr


def explained() -> list[list[str]]:
    """The pieces of each message in the operator's guide, as its last table quotes them."""
    page = (CHECKOUT / "docs" / "operating.md").read_text(encoding="utf-8")
    rows = page.partition("## When it refuses to start\n")[2].splitlines()
    said = [row.split("|")[1] for row in rows if row.startswith("| `")]
    return [re.findall("`([^`]+)`", cell) for cell in said]


def sentence(outcome: tuple[int, str]) -> str:
    """The one line of a refusal, which the operator's guide explains."""
    code, text = outcome
    assert any(piece in text for pieces in explained() for piece in pieces), f"not explained: {text}"
    assert code == 1, text
    assert text.startswith("lares: ")
    assert text.count("\n") == 1, text
    return text.removeprefix("lares: ").rstrip("\n")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def listener(**more: Any) -> dict[str, Any]:
    return {"bind": "127.0.0.1", "port": 0, "serves": ["client"], **more}


def test_a_port_that_is_taken(tmp_path: Path, taken: int) -> None:
    """Nothing is made for a server that cannot listen."""
    said = sentence(refusal(tmp_path, {"listeners": [listener(port=taken)]}))
    assert said.startswith(
        f"cannot listen on 127.0.0.1 port {taken}: Address already in use; another program"
    )
    assert not (tmp_path / "data").exists()


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    said = sentence(refusal(tmp_path, {"listeners": [listener(bind="192.0.2.1")]}))
    assert said == "cannot listen on 192.0.2.1 port 0: Cannot assign requested address"


def test_more_workers_than_there_is_room_for(tmp_path: Path) -> None:
    said = sentence(refusal(tmp_path, {"workers": 300}))
    assert said == "workers: 300 are too many; 254 is the most"
    assert not (tmp_path / "data").exists()


def test_another_instance_on_the_same_data(tmp_path: Path) -> None:
    """It is named by its process, and goes on undisturbed."""
    with serving(tmp_path / "a") as server:
        said = sentence(refusal(tmp_path / "b", {"data_dir": str(server.data_dir)}))
        assert said.startswith(
            f"{server.data_dir} is in use by another server (process {server.pid}). Stop it"
        )
        assert server.call("GET", "/health").status == 200


# Files.


@pytest.mark.parametrize("content", ["", "ed25519 a_1 nonsense!\n", "rsa 1 AAAA\n"])
def test_a_signing_key_that_is_none(tmp_path: Path, content: str) -> None:
    """It is never replaced."""
    (tmp_path / "data").mkdir()
    key = tmp_path / "data" / "signing.key"
    key.write_text(content)
    assert sentence(refusal(tmp_path)).startswith(f"{key} is not a signing key: ")
    assert key.read_text() == content
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_signing_key_that_cannot_be_read(tmp_path: Path) -> None:
    key = tmp_path / "data" / "signing.key"
    key.mkdir(parents=True)
    assert sentence(refusal(tmp_path)) == f"cannot read {key}: Is a directory"


def unprivileged() -> Sequence[str]:
    """What takes from root the power to ignore permissions; nobody else has it."""
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    parent = tmp_path / "closed"
    parent.mkdir(mode=0o555)
    said = sentence(refusal(tmp_path, {"data_dir": str(parent / "data")}, prefix=unprivileged()))
    assert said == f"cannot make the folder {parent / 'data'} (data_dir): Permission denied"


@pytest.mark.parametrize("has_keys", [False, True])
def test_a_folder_that_cannot_be_written(tmp_path: Path, has_keys: bool) -> None:
    """Whether it lacks the key or the database."""
    data = tmp_path / "data"
    data.mkdir()
    if has_keys:
        (data / "signing.key").write_text("ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n")
    data.chmod(0o555)
    said = sentence(refusal(tmp_path, prefix=unprivileged()))
    name = "postgres.lock" if has_keys else "signing.key"
    assert str(data / name) in said
    assert "Permission denied" in said


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    """A file that is there but no certificate is told apart from one that is not there."""
    tls = {"certificate": str(tmp_path / "a.crt"), "private_key": str(tmp_path / "a.key")}
    (tmp_path / "a.crt").write_text("nonsense")
    (tmp_path / "a.key").write_text("nonsense")
    said = sentence(refusal(tmp_path, {"listeners": [listener(tls=tls)]}))
    assert said.startswith(f"cannot use {tls['certificate']} with {tls['private_key']}: ")


# Configuration.


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"wokers": 1}, "wokers: there is no such key; did you mean workers?"),
        ({"server_name": "https://example.org"}, "server_name: "),
        ({"listeners": [{"port": "http"}]}, "listeners[0].port: "),
        ({"database": {"url": "mysql://example.org/"}}, "database.url: "),
        (
            {"listeners": [listener(tls={"certificate": "/none/a.crt", "private_key": "/dev/null"})]},
            "listeners[0].tls.certificate: cannot read /none/a.crt: No such file or directory",
        ),
    ],
)
def test_a_wrong_configuration_names_the_key(tmp_path: Path, change: Mapping[str, Any], key: str) -> None:
    code, text = refusal(tmp_path, change)
    assert code == 2
    assert text.startswith(f"{tmp_path / 'lares.yaml'}: {key}")
    assert text.count("\n") == 1


# The database.


def test_a_database_nobody_answers_for(tmp_path: Path) -> None:
    port = free_port()
    said = sentence(refusal(tmp_path, url=f"postgresql://lares:{PASSWORD}@127.0.0.1:{port}/lares"))
    assert (
        said == f"cannot use the database 'lares' at 127.0.0.1 port {port} (database.url): Connection refused"
    )


@pytest.mark.parametrize(
    "url", [f"postgresql://u:%zz{PASSWORD}@h/d", f"postgresql://u:x@127.0.0.1:{PASSWORD}/d"]
)
def test_a_database_url_that_is_none(tmp_path: Path, url: str) -> None:
    """A password that was not escaped ends up anywhere in the URL, so nothing of it is repeated."""
    assert sentence(refusal(tmp_path, url=url)).startswith(
        "database.url is not a valid URL; special characters"
    )


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Postgres with a role that needs a password and owns nothing, and with some unusable databases."""
    with postgres(tmp_path_factory.mktemp("db")) as url:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("SHOW hba_file")
            row = cursor.fetchone()
            assert row is not None
            rules = Path(row[0])
            rules.write_text("local all stranger scram-sha-256\n" + rules.read_text())
            cursor.execute("SELECT pg_reload_conf()")
            cursor.execute(f"CREATE ROLE stranger LOGIN PASSWORD '{PASSWORD}'")
            for name, encoding in (("latin", "LATIN1"), ("newer", "UTF8"), ("other", "UTF8")):
                cursor.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        yield url


def place(url: str, database: str, user: str = "lares", password: str = "") -> str:
    parts = parse_dsn(url)
    secret = f":{password}" if password else ""
    return f"postgresql://{user}{secret}@/{database}?host={parts['host']}&port={parts['port']}"


@pytest.mark.parametrize(
    ("database", "user", "password", "said"),
    [
        ("other", "stranger", "wrong", 'password authentication failed for user "stranger"'),
        ("other", "stranger", PASSWORD, "the user of database.url must own the database"),
        ("missing", "lares", "", 'database "missing" does not exist'),
        ("latin", "lares", "", "database latin has encoding LATIN1; create it with CREATE DATABASE latin"),
    ],
)
def test_a_database_that_cannot_be_used(  # noqa: PLR0917 (a row of the table)
    tmp_path: Path, external: str, database: str, user: str, password: str, said: str
) -> None:
    assert said in sentence(refusal(tmp_path, url=place(external, database, user, password)))


def test_a_database_of_a_newer_release(tmp_path: Path, external: str) -> None:
    """It is left as it is."""
    url = place(external, "newer")
    server = ServerProcess(tmp_path / "a", database_url=url)
    server.start()
    server.stop()
    with closing(psycopg2.connect(make_dsn(url))) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("INSERT INTO schema_version (number, name, oldest_code) VALUES (9000, 'later', 9000)")
    said = sentence(refusal(tmp_path / "b", url=url))
    assert "the database is at version 9000" in said
    assert "Start the newer release" in said


def test_an_embedded_database_of_a_newer_release(tmp_path: Path) -> None:
    """A refusal after the database was started stops it again."""
    with serving(tmp_path) as server:
        server.stop()
        version = server.data_dir / "postgres" / "PG_VERSION"
        content = version.read_text()
        version.write_text("99\n")
        server.launch()
        assert server.wait_exit() == 1
        assert "was written by Postgres 99; this release runs Postgres 18" in server.log()
        version.write_text(content)
        server.start()
        server.stop()
        assert database_processes(server) == []
