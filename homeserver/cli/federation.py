# SPDX-License-Identifier: Apache-2.0
"""`lares federation status [DESTINATION] | retry DESTINATION`: how sending to other servers stands.

Owns what may be asked. The database that the running server uses is read, its embedded one too, by `sending_status`;
what it says is at most a few seconds old.
"""

import argparse

from homeserver.cli.command import Commands, add_config_option, command_parser, config_of
from homeserver.config import StartRefused
from homeserver.protocol.identifiers import is_valid_server_name


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    parser = command_parser(
        commands,
        "federation",
        run=_run,
        summary="say how sending to other servers stands",
        description=(
            "Say which other servers are not reached, since when and why, and what waits for them; or have one\n"
            "tried again at once. Must be run with the configuration of the running server, as its user."
        ),
        example="lares federation status\n"
        "lares federation status matrix.org --json\n"
        "lares federation retry matrix.org",
    )
    parser.add_argument("action", choices=("status", "retry"), help="what to do")
    parser.add_argument("destination", nargs="?", help="a server name; for status: all that are in trouble")
    parser.add_argument("--json", action="store_true", help="print JSON (status only)")
    add_config_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    name: str | None = arguments.destination
    if name is None and arguments.action == "retry":
        raise StartRefused("say which server: lares federation retry DESTINATION")
    if name is not None and not is_valid_server_name(name):
        raise StartRefused(f"{name!r} is not a server name")
    from homeserver.cli.sending_status import act

    return act(arguments, config, name)
