# SPDX-License-Identifier: Apache-2.0
"""`lares serve`: run the server until it is told to stop.

Owns the call of the composition root, which is imported late so that the other commands start at once, and the command
line a new administrator is shown for the first account.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from homeserver.cli.command import Commands, add_config_option, command_parser
from homeserver.config.loader import read_text
from homeserver.config.sections import Listener, listener_url


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    parser = command_parser(
        commands,
        "serve",
        run=_run,
        summary="run the server",
        description=(
            "Run the server until SIGTERM or Ctrl-C. Prints one line `ready: …` once it accepts requests,\n"
            "and logs to standard error."
        ),
        example="lares serve --config lares.yaml",
    )
    add_config_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    path: Path | None = arguments.config
    written = read_text(path)
    config = written.parse()
    command = partial(first_account_command, path)
    if config.workers == 1 or path is None:
        from homeserver.app.process import run_server

        run_server(config, command)
    else:
        from homeserver.app.workers.parent import run_workers

        run_workers(config, written, path, command)
    return 0


def first_account_command(config_path: Path | None, listening: Sequence[tuple[Listener, int]]) -> str | None:
    """What to type in this folder to make an administrator on a server that listens so, with the ports it got.

    None if no listener serves admin, which `register-user` talks to.
    """
    admin = [(listener, port) for listener, port in listening if "admin" in listener.serves]
    if not admin:
        return None
    words = [*_program(), "register-user"]
    if config_path is not None:
        words += ["--config", str(config_path)]
    if all(listener.port == 0 for listener, _ in admin):  # register-user can't read the port off the file
        listener, port = admin[0]
        words += ["--url", listener_url(replace(listener, port=port))]
    return shlex.join([*words, "alice", "--admin"])


def _program() -> list[str]:
    """`lares`, as short as it can be typed here."""
    called = Path(sys.argv[0])
    lares = called if called.name == "lares" else Path(sys.executable).with_name("lares")
    if not lares.exists():
        return [sys.executable, "-m", "homeserver.cli"]
    try:
        return [str(lares.absolute().relative_to(Path.cwd()))]
    except ValueError:
        return [str(lares)]
