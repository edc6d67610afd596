# SPDX-License-Identifier: Apache-2.0
"""`lares register-user` makes the account it was asked for, or says in words why not."""

import getpass
import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homeserver.cli import main
from homeserver.config import parse
from homeserver.config.registration_secret import load_or_create_registration_secret
from tests.cli.registration_server import RegistrationServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistrationServer]:
    """A server that has started in the current folder with no configuration, so that it made its secret."""
    monkeypatch.chdir(tmp_path)
    secret = load_or_create_registration_secret(parse("", source="test", folder=tmp_path))
    with RegistrationServer(secret).running() as running:
        yield running


@pytest.fixture
def register(server: RegistrationServer) -> Callable[..., int]:
    """Run `lares register-user` against the server."""
    return lambda *arguments: main(["register-user", "--url", f"http://127.0.0.1:{server.port}", *arguments])


def type_passwords(monkeypatch: pytest.MonkeyPatch, *typed: str) -> None:
    """Answer the prompts for a password in order."""
    answers = iter(typed)
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: next(answers))


def test_the_account_asked_for_is_made(
    server: RegistrationServer, register: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The secret is found beside the data; the proof holds."""
    assert register("alice", "--password", "wonderland") == 0
    assert capsys.readouterr().out == "registered user @alice:localhost\n"
    (account,) = server.accounts
    assert (account["username"], account["password"], account["admin"]) == ("alice", "wonderland", False)


def test_an_administrator_with_a_display_name(
    server: RegistrationServer, register: Callable[..., int]
) -> None:
    """Both reach the server, and a full user id means its local part."""
    assert register("@root:localhost", "--admin", "--display-name", "The root", "--password", "pässwörd") == 0
    (account,) = server.accounts
    assert (account["username"], account["admin"]) == ("root", True)
    assert account["displayname"] == "The root"


def test_the_password_is_asked_for_twice(
    server: RegistrationServer,
    register: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A slip is noticed before the account has a password nobody knows."""
    type_passwords(monkeypatch, "one", "two")
    assert register("alice") == 1
    assert "the two passwords differ" in capsys.readouterr().err
    type_passwords(monkeypatch, "one", "one")
    assert register("alice") == 0
    assert [account["password"] for account in server.accounts] == ["one"]


def test_the_password_comes_from_a_file_or_standard_input(
    server: RegistrationServer, register: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first line counts, without its end."""
    (tmp_path / "password").write_text("from file\r\nnot this\n")
    assert register("alice", "--password-file", "password") == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("from input\n"))
    assert register("bob", "--password-file", "-") == 0
    assert [account["password"] for account in server.accounts] == ["from file", "from input"]


def test_a_refusal_is_told_in_the_servers_words(
    register: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1."""
    assert register("alice", "--password", "p") == 0
    assert register("alice", "--password", "p") == 1
    assert capsys.readouterr().err == "lares: the server refused: User ID already taken. (M_USER_IN_USE)\n"


def test_a_wrong_secret_is_refused(
    register: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As with the configuration of another server."""
    (tmp_path / "other.yaml").write_text("registration: {shared_secret: another}")
    assert register("alice", "--config", "other.yaml", "--password", "p") == 1
    assert "HMAC incorrect (M_FORBIDDEN)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--password", ""], "the password is empty"),
        (["--password-file", "none"], "cannot read none: No such file"),
        (["--password", "p", "--url", "http://127.0.0.1:PORT/elsewhere"], "HTTP 404"),
    ],
)
def test_other_refusals(
    server: RegistrationServer,
    register: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Exit code 1 and a sentence, never a traceback."""
    assert register("alice", *(each.replace("PORT", str(server.port)) for each in arguments)) == 1
    assert message in capsys.readouterr().err
    assert server.accounts == []


def test_no_server_answers(register: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """The commonest mistake is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert register("alice", "--password", "p", "--url", url) == 1
    assert "is it running?" in capsys.readouterr().err


def test_no_server_has_started_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The secret is the server's to make."""
    monkeypatch.chdir(tmp_path)
    assert main(["register-user", "alice", "--password", "p"]) == 1
    assert "Start the server first" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_servers_own_admin_listener_is_found(
    server: RegistrationServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --url the configuration says where; one without TLS is preferred."""
    (tmp_path / "a.pem").touch()
    (tmp_path / "lares.yaml").write_text(f"""
listeners:
  - {{port: 1, serves: [client]}}
  - {{port: 2, serves: [admin], tls: {{certificate: a.pem, private_key: a.pem}}}}
  - {{bind: 0.0.0.0, port: {server.port}, serves: [admin]}}
""")
    assert main(["register-user", "alice", "--config", "lares.yaml", "--password", "p"]) == 0
    (tmp_path / "lares.yaml").write_text("listeners: [{serves: [client]}]")
    assert main(["register-user", "bob", "--config", "lares.yaml", "--password", "p"]) == 1
    assert "with --url" in capsys.readouterr().err
