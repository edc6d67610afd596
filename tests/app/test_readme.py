# SPDX-License-Identifier: Apache-2.0
"""The README's first conversation is held as it is written, so that it cannot rot.

Its commands are taken from the page. Only the place differs: the port, and `.venv/bin/lares`, which here is the running
environment's with the test's configuration.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.serving import CHECKOUT, serving

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
PASSWORD = "PASSWORD"  # as the page has it


def commands() -> list[str]:
    """The blocks to be typed, in order: accounts, log-in, room, message."""
    section = README.partition("## The first conversation\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    return blocks


def test_the_first_conversation_is_held_as_written(tmp_path: Path) -> None:
    """Both accounts are made, and what bob reads is what alice said."""
    accounts, *conversation = commands()
    with serving(tmp_path, settings={"registration": {"enabled": False}}) as server:
        lares = tmp_path / ".venv" / "bin" / "lares"
        lares.parent.mkdir(parents=True)
        words = shlex.join([sys.executable, "-m", "homeserver.cli"])
        config = shlex.quote(str(server.config_path))
        lares.write_text(
            f'#!/bin/sh\ncd {shlex.quote(str(CHECKOUT))} && exec {words} "$@" --config {config}\n'
        )
        lares.chmod(0o755)

        for command in accounts.splitlines():
            made = type_in(command, tmp_path, f"{PASSWORD}\n{PASSWORD}\n")
            assert made.startswith("registered ")
        script = "set -eu\n" + "".join(conversation).replace("127.0.0.1:8008", f"127.0.0.1:{server.port}")
        said = type_in(script, tmp_path, "")
    answers = re.sub(r"\}\{", "}\n{", said).splitlines()
    joined, sent, read = (json.loads(answer) for answer in answers)
    (event,) = read["chunk"]
    assert event["room_id"] == joined["room_id"]
    assert (event["event_id"], event["sender"]) == (sent["event_id"], "@alice:localhost")
    assert event["content"] == {"msgtype": "m.text", "body": "Hello, bob."}


def type_in(script: str, folder: Path, answers: str) -> str:
    """Run what a person would type in a shell, with the answers to its prompts; what is printed."""
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        input=answers,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        start_new_session=True,  # no terminal: prompts read standard input
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_pages_it_links_are_there() -> None:
    """Every relative link leads somewhere."""
    targets = [target for target in re.findall(r"\]\(([^)#]+)", README) if "://" not in target]
    assert "docs/operating.md" in targets
    assert [target for target in targets if not (CHECKOUT / target).exists()] == []


def test_the_two_commands_are_scripts() -> None:
    """What the page tells first can be run."""
    for script in ("scripts/serve", "scripts/test"):
        assert re.search(rf"^    {script}  ", README, re.MULTILINE)
        assert (CHECKOUT / script).stat().st_mode & 0o111
