# SPDX-License-Identifier: Apache-2.0
"""Each command explains itself, and ends with the exit code its outcome deserves."""

import re
from pathlib import Path

import pytest

from homeserver import __version__
from homeserver.cli import main
from homeserver.config import parse

COMMANDS = ["serve", "generate-config", "register-user", "check-config", "doctor", "federation", "version"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` is enough to use a command."""
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"example:\n  lares {command}" in capsys.readouterr().out


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`lares --help` is the table of contents."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert [
        command for command in COMMANDS if not re.search(rf"^ +{command}$|^ +{command}  ", text, re.M)
    ] == []


@pytest.mark.parametrize(
    "arguments", [[], ["serv"], ["version", "now"], ["register-user"], ["serve", "--port", "1"]]
)
def test_a_wrong_call_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With the usage on standard error."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: lares")


@pytest.mark.parametrize("command", ["serve", "check-config", "register-user"])
def test_a_wrong_configuration_is_exit_code_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the command, the file and the key are named on standard error."""
    file = tmp_path / "lares.yaml"
    file.write_text("wokers: 2")
    arguments = [command, "--config", str(file)] + (["alice"] if command == "register-user" else [])
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == f"{file}: wokers: there is no such key; did you mean workers?\n"
    assert captured.out == ""


def test_generate_config_prints_a_file_that_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the name filled in."""
    assert main(["generate-config", "--server-name", "example.org"]) == 0
    config = parse(capsys.readouterr().out, source="printed", folder=tmp_path)
    assert config.server_name == "example.org"


def test_generate_config_refuses_a_name_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the name is in a file, and the file in use."""
    assert main(["generate-config", "--server-name", "https://example.org"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("--server-name: must be a name such as example.org, not a URL")


def test_check_config_says_what_a_file_comes_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where clients and data go, and what is rarely meant; the database's password is not shown."""
    file = tmp_path / "lares.yaml"
    file.write_text("""
server_name: example.org
public_baseurl: http://matrix.example.org
database: {url: "postgresql://lares:hush@localhost/lares"}
registration: {enabled: true, requires_token: false}
rate_limits: {enabled: false}
federation: {verify_certificates: false}
listeners: [{serves: [client]}]
""")
    assert main(["check-config", "--config", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "base URL:      http://matrix.example.org/" in lines
    assert f"data:          {tmp_path / 'data'}" in lines
    assert "registration:  open" in lines
    assert len([line for line in lines if line.startswith("note: ")]) == 5
    assert lines[-1] == "the configuration is valid"
    assert "hush" not in "\n".join(lines)


def test_check_config_finds_nothing_to_note_in_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And makes no file."""
    monkeypatch.chdir(tmp_path)
    assert main(["check-config"]) == 0
    assert "note:" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_version_names_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The Postgres that is brought along says its own version."""
    assert main(["version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Lares {__version__}"
    assert lines[1].startswith("Python 3.")
    assert lines[3].startswith("postgres (PostgreSQL) ")
